//! Memory that is enough, or isn't.

use super::*;

const MIB: u64 = 1 << 20;

/// A model of 1 GiB with 8192 positions whose cache takes 1 MiB for 16 tokens.
fn needs(available: u64) -> Needs {
    Needs {
        isa: "avx2".to_owned(),
        num_threads: 4,
        weight_bytes: 1024 * MIB,
        workspace_bytes: 256 * MIB,
        max_positions: 8192,
        max_model_len: None,
        max_num_seqs: 64,
        available_bytes: Some(available),
        process_bytes: PROCESS_BYTES,
        device_free_bytes: None,
        device_total_bytes: None,
        is_shared: false,
        kv_cache: Some(KvCache {
            dtype: "f16".to_owned(),
            block_size: 16,
            block_bytes: MIB,
            num_blocks: 512,
            fills_memory: false,
        }),
    }
}

fn ask(concurrency: Option<u64>, context: Option<u64>) -> Ask {
    Ask { concurrency, context, kv_cache: Sizing::Chosen }
}

#[test]
fn with_room_the_worker_is_left_alone() {
    let plan = plan(&needs(16 * 1024 * MIB), Ask::default()).unwrap();

    assert_eq!(plan.kv_cache_bytes, 512 * MIB);
    assert_eq!((plan.capacity, plan.context, plan.concurrency), (8192, 8192, 1));
    assert!(plan.flags.is_empty());
    assert_eq!(plan.needed_bytes, (1024 + 256 + 256 + 512) * MIB);
}

#[test]
fn with_little_room_the_cache_shrinks_and_says_so() {
    let plan = plan(&needs(2000 * MIB), Ask::default()).unwrap();

    // 2000 less 1536 of all else and 100 that are spared.
    assert_eq!(plan.flags, ["--kv-cache-bytes".to_owned(), (364 * MIB).to_string()]);
    assert_eq!((plan.capacity, plan.context), (364 * 16, 364 * 16));
    assert!(plan.reasons[0].contains("instead of 512.00 MiB"), "{:?}", plan.reasons);
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let weights = plan(&needs(1535 * MIB), Ask::default()).unwrap_err();
    assert!(matches!(weights, Misfit::Weights { .. }));
    assert!(weights.to_string().contains("1.00 GiB of weights"), "{weights}");

    let cache = plan(&needs(1540 * MIB), Ask::default()).unwrap_err();
    assert!(matches!(cache, Misfit::KvCache { kv, .. } if kv == 16 * MIB), "{cache}");
    assert_eq!(plan(&needs(1552 * MIB), Ask::default()).unwrap().context, 256);

    let asked = plan(&needs(2000 * MIB), ask(Some(4), Some(8192))).unwrap_err();
    assert!(asked.to_string().contains("4 sequences of 8192 tokens"), "{asked}");
    assert!(asked.hint().unwrap().contains("room for 5824 tokens"), "{asked:?}");
}

/// As a GPU's worker says it: the cache is what is left.
fn on_gpu(available: u64) -> Needs {
    let mut needs = needs(available);
    needs.device_free_bytes = Some(available + 1024 * MIB);
    needs.device_total_bytes = Some(available + 2048 * MIB);
    needs.kv_cache.as_mut().unwrap().fills_memory = true;
    needs
}

#[test]
fn a_gpu_is_filled_by_its_worker_unless_others_have_a_part_of_it() {
    let alone = plan(&on_gpu(4096 * MIB), Ask::default()).unwrap();
    assert_eq!(alone.kv_cache_bytes, (4096 - 1024 - 256 - 256) * MIB);
    assert_eq!((alone.needed_bytes, alone.flags), (4096 * MIB, Vec::<String>::new()));

    let shared = Needs { is_shared: true, ..on_gpu(2048 * MIB) };
    let shared = plan(&shared, Ask::default()).unwrap();
    assert_eq!(shared.flags, ["--kv-cache-bytes".to_owned(), (512 * MIB).to_string()]);
    assert!(shared.to_string().contains("3.00 GiB of the GPU's 4.00 GiB are free"), "{shared}");

    let misfit = plan(&on_gpu(1200 * MIB), Ask::default()).unwrap_err();
    assert!(matches!(misfit, Misfit::Weights { .. }), "{misfit}");
}

#[test]
fn what_is_asked_for_decides_the_cache() {
    let plan = plan(&needs(16 * 1024 * MIB), ask(Some(4), Some(1000))).unwrap();

    // 63 blocks of 16 tokens for each.
    assert_eq!(plan.kv_cache_bytes, 4 * 63 * MIB);
    let flags = ["--kv-cache-bytes", "264241152", "--max-model-len", "1000", "--max-num-seqs", "4"];
    assert_eq!(plan.flags, flags);
    assert_eq!(plan.concurrency, 4);
}

#[test]
fn a_context_that_was_not_asked_for_is_what_is_left() {
    let plan = plan(&needs(4096 * MIB), ask(Some(8), None)).unwrap();

    // 4096 less 1536 and 204.8: 2355 blocks, 294 for each.
    assert_eq!(plan.context, 294 * 16);
    assert!(plan.needed_bytes <= 4096 * MIB);
    assert!(plan.reasons[0].contains("of 8192"), "{:?}", plan.reasons);
}

#[test]
fn a_context_beyond_the_models_is_refused() {
    let misfit = plan(&needs(16 * 1024 * MIB), ask(None, Some(8193))).unwrap_err();

    assert_eq!(misfit, Misfit::Context { asked: 8193, limit: 8192 });
}

#[test]
fn a_cache_that_the_flags_say_is_not_changed() {
    let given = |concurrency, context| Ask { concurrency, context, kv_cache: Sizing::Given };

    let fits = plan(&needs(16 * 1024 * MIB), given(None, None)).unwrap();
    assert_eq!((fits.kv_cache_bytes, fits.flags.len()), (512 * MIB, 0));
    let flags = plan(&needs(16 * 1024 * MIB), given(Some(2), Some(8192))).unwrap_err();
    assert!(matches!(flags, Misfit::Flags { capacity: 8192, tokens: 16384, .. }), "{flags}");
    assert!(matches!(plan(&needs(2000 * MIB), given(None, None)), Err(Misfit::KvCache { .. })));
}

#[test]
fn where_the_system_does_not_say_everything_fits() {
    let unknown = Needs { available_bytes: None, ..needs(0) };

    assert!(plan(&unknown, ask(Some(1000), Some(8192))).is_ok());
}

#[test]
fn a_model_that_embeds_needs_no_cache() {
    let embeds = Needs { kv_cache: None, ..needs(2000 * MIB) };

    let plan = plan(&embeds, ask(None, Some(512))).unwrap();

    assert_eq!((plan.kv_cache_bytes, plan.context), (0, 512));
    assert_eq!(plan.flags, ["--max-model-len", "512"]);
}

#[test]
fn what_the_worker_says_is_read() {
    let text = r#"{"task":"generate","device":"cpu","isa":"avx2","num_threads":2,"max_num_seqs":64,
        "max_model_len":null,"available_bytes":100,"weight_bytes":1,"workspace_bytes":2,
        "max_positions":8192,"kv_cache":{"dtype":"f16","block_size":16,"block_bytes":3,"num_blocks":4}}"#;
    let description: Description = serde_json::from_str(text).unwrap();
    assert_eq!(description.needs.unwrap().kv_cache.unwrap().num_blocks, 4);

    let gpu: Description = serde_json::from_str(r#"{"task":"generate","device":"cuda"}"#).unwrap();
    assert_eq!(gpu.needs, None);
}
