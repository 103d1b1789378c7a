//! The launcher: pulls models, keeps the store, and supervises the processes that serve them.
//! The only process that talks to the Hugging Face hub.
