//! The table of routes, and the policy that each of them must name.
//!
//! A [`Route`] has no constructor of its own. It can only be made through a [`Policy`], so a route
//! whose policy nobody chose does not compile:
//!
//! ```
//! use sconce_router::server::route::{NeedsKey, Policy, Public};
//!
//! async fn hello() -> &'static str { "hello" }
//! let open = Public::get("/hello", hello);
//! let closed = NeedsKey::get("/secret", hello);
//! ```
//!
//! ```compile_fail
//! use sconce_router::server::route::Route;
//!
//! async fn hello() -> &'static str { "hello" }
//! let forgotten = Route::get("/hello", hello);
//! ```
//!
//! ```compile_fail
//! use sconce_router::server::route::{Access, Policy};
//!
//! struct Lax;
//! impl Policy for Lax { const ACCESS: Access = Access::Public; }
//! ```

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;

use super::body;
use crate::app::App;
use crate::auth::{self, Authenticator};
use crate::config::MetricsAccess;
use crate::{api, docs, health, metrics, playground, replay};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone who can reach the port.
    Public,
    /// The holder of a key.
    Key,
    /// The holder of a key of the admin scope.
    Admin,
    /// Whoever the configuration lets read the metrics.
    Scraper,
}

/// An access policy as a type. Sealed: the policies are the ones in this file.
pub trait Policy: sealed::Sealed {
    /// What the policy demands.
    const ACCESS: Access;

    /// A route for GET and HEAD.
    fn get<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Route {
        let access = Self::ACCESS;
        let handler = on(MethodFilter::GET, handler);
        Route {
            method: Method::GET,
            path,
            access,
            takes: Takes::Nothing,
            keeps: Keeps::Nothing,
            handler,
        }
    }

    /// A route for DELETE.
    fn delete<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Route {
        let access = Self::ACCESS;
        let handler = on(MethodFilter::DELETE, handler);
        Route {
            method: Method::DELETE,
            path,
            access,
            takes: Takes::Nothing,
            keeps: Keeps::Nothing,
            handler,
        }
    }

    /// A route for POST that takes no body.
    fn act<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Route {
        Route { takes: Takes::Nothing, ..Self::post(path, handler) }
    }

    /// A route for POST, with a form that its handler reads as it comes.
    fn upload<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Route {
        Route { takes: Takes::Form, ..Self::post(path, handler) }
    }

    /// A route for POST, with a JSON body.
    fn post<H: Handler<T, App>, T: 'static>(path: &'static str, handler: H) -> Route {
        let access = Self::ACCESS;
        let handler = on(MethodFilter::POST, handler);
        Route {
            method: Method::POST,
            path,
            access,
            takes: Takes::Json,
            keeps: Keeps::Nothing,
            handler,
        }
    }
}

/// Needs no key: what says nothing that is not public, and what probes must reach.
pub struct Public;

/// Needs an API key, whose principal the handler gets.
pub struct NeedsKey;

/// Needs an API key of the admin scope, whose principal the handler gets.
pub struct NeedsAdmin;

/// Needs what the configuration says of `/metrics`.
pub struct Scraper;

impl Policy for Public {
    const ACCESS: Access = Access::Public;
}

impl Policy for NeedsKey {
    const ACCESS: Access = Access::Key;
}

impl Policy for NeedsAdmin {
    const ACCESS: Access = Access::Admin;
}

impl Policy for Scraper {
    const ACCESS: Access = Access::Scraper;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Public {}
    impl Sealed for super::NeedsKey {}
    impl Sealed for super::NeedsAdmin {}
    impl Sealed for super::Scraper {}
}

/// One method of one path, its handler, and who may call it.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with axum's placeholders.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    takes: Takes,
    /// Whether its answers can be kept for clients that come back.
    keeps: Keeps,
    handler: MethodRouter<App>,
}

/// What a request brings with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Json,
    Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Nothing,
    Answers,
}

impl Route {
    /// Whether its requests have a body of JSON, or another.
    pub(crate) fn takes_body(&self) -> bool {
        match self.takes {
            Takes::Nothing => false,
            Takes::Json | Takes::Form => true,
        }
    }

    /// Whether its answers can be had again.
    pub(crate) fn keeps_answers(&self) -> bool {
        self.keeps == Keeps::Answers
    }

    /// The same, with answers that a client can come back for.
    fn keeping(self) -> Self {
        Self { keeps: Keeps::Answers, ..self }
    }
}

/// Every route of the router.
pub fn routes() -> Vec<Route> {
    vec![
        NeedsKey::post("/v1/chat/completions", api::chat::create).keeping(),
        NeedsKey::post("/v1/chat/completions/render", api::tokenize::render),
        NeedsKey::post("/v1/responses", api::responses::create).keeping(),
        NeedsKey::post("/v1/responses/input_tokens", api::responses::input_tokens),
        NeedsKey::get("/v1/responses/{id}", api::responses::retrieve),
        NeedsKey::act("/v1/responses/{id}/cancel", api::responses::cancel),
        NeedsKey::delete("/v1/responses/{id}", api::responses::delete),
        NeedsKey::get("/v1/responses/{id}/input_items", api::responses::input_items),
        NeedsKey::post("/v1/completions", api::completions::create).keeping(),
        NeedsKey::post("/tokenize", api::tokenize::tokenize),
        NeedsKey::post("/detokenize", api::tokenize::detokenize),
        NeedsKey::post("/v1/batches", api::batches::create),
        NeedsKey::get("/v1/batches", api::batches::list),
        NeedsKey::get("/v1/batches/{id}", api::batches::retrieve),
        NeedsKey::act("/v1/batches/{id}/cancel", api::batches::cancel),
        NeedsKey::post("/v1/embeddings", api::embeddings::create),
        NeedsKey::post("/v1/rerank", api::rerank::create),
        NeedsKey::post("/rerank", api::rerank::create_unversioned),
        NeedsKey::post("/v1/score", api::score::create),
        NeedsKey::post("/score", api::score::create_unversioned),
        NeedsKey::post("/v1/messages", api::messages::create).keeping(),
        NeedsKey::post("/v1/messages/count_tokens", api::messages::count_tokens),
        NeedsKey::upload("/v1/files", api::files::create),
        NeedsKey::get("/v1/files", api::files::list),
        NeedsKey::get("/v1/files/{id}", api::files::retrieve),
        NeedsKey::delete("/v1/files/{id}", api::files::delete),
        NeedsKey::get("/v1/files/{id}/content", api::files::content),
        NeedsKey::get("/v1/models", api::models::list),
        NeedsKey::get("/v1/models/{*id}", api::models::retrieve),
        NeedsKey::get("/v1/streams/{id}", api::streams::resume),
        NeedsAdmin::get("/models", api::management::list),
        NeedsAdmin::post("/models", api::management::pull),
        NeedsAdmin::delete("/models", api::management::remove),
        NeedsAdmin::post("/models/load", api::management::load),
        NeedsAdmin::post("/models/unload", api::management::unload),
        NeedsAdmin::get("/models/sse", api::management::events),
        Public::get("/live", health::live),
        Public::get("/ready", health::ready),
        Public::get("/health", health::health),
        Public::get("/openapi.json", docs::openapi_json),
        Public::get("/docs", docs::page),
        Public::get("/", playground::page),
        Public::get("/playground/{*file}", playground::file),
        Scraper::get("/metrics", metrics::scrape),
    ]
}

/// Puts the routes behind their policies. The checks see only requests that matched: they are
/// inside the routing, and no path is ever compared twice.
pub(super) fn mount(routes: Vec<Route>, app: &App, authenticator: &Authenticator) -> Router<App> {
    let mut router = Router::new();
    for Route { method: _, path, access, takes, keeps, mut handler } in routes {
        if keeps == Keeps::Answers {
            handler = handler.route_layer(from_fn_with_state(app.clone(), replay::keep));
        }
        // Our own limits are the ones that count, and the ones that are answered as JSON.
        handler = match takes {
            Takes::Json => handler
                .route_layer(DefaultBodyLimit::disable())
                .route_layer(from_fn_with_state(app.clone(), body::receive)),
            Takes::Form => handler
                .route_layer(DefaultBodyLimit::disable())
                .route_layer(from_fn_with_state(app.clone(), body::pass)),
            Takes::Nothing => handler.route_layer(from_fn(body::ignore)),
        };
        if access == Access::Admin {
            handler = handler.route_layer(from_fn(auth::require_admin));
        }
        if needs_key(access, app) {
            let check = from_fn_with_state(authenticator.clone(), auth::require_key);
            handler = handler.route_layer(check);
        }
        router = router.route(path, handler);
    }
    router
}

fn needs_key(access: Access, app: &App) -> bool {
    match access {
        Access::Public => false,
        Access::Key | Access::Admin => true,
        Access::Scraper => app.config.metrics == MetricsAccess::Keys,
    }
}
