//! Plans that lie.

use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{
    Attention, BlockTables, KvCache, Plan, PlanGrid, PlanLimits, Scoring, Workspace,
};

use super::*;

/// Whatever the words are, the kernels stay in their memory: the stand-in's guard sees it.
#[test]
fn a_plan_that_lies_does_no_harm() {
    let device = device();
    let shape =
        KvShape { num_layers: 1, num_blocks: 4, block_size: 16, num_kv_heads: 2, head_dim: 64 };
    let limits =
        PlanLimits { group: 2, max_rows: 4, max_tokens: 32, max_chunks: 8, prefill_tile: 64 };
    let plan = Plan::new(limits).unwrap();
    let mut workspace = Workspace::new(&device, &plan, &shape).unwrap();
    for (seed, float) in both([0, 1, 2, 3], FLOATS) {
        let mut rng = rng(seed);
        let cache = KvCache::new(&device, shape, KvDtype::Float(float)).unwrap();
        let mut tables = BlockTables::new(&device, 2, 4).unwrap();
        let blocks: Vec<u32> = (0..8).map(|_| rng.random_range(0..6)).collect();
        device.upload(&mut tables.slice_mut(), &blocks).unwrap();
        let bound = [4, 40, 300, u32::MAX][seed as usize];
        let mut words: Vec<u32> = (0..200).map(|_| rng.random_range(0..=bound)).collect();
        for list in 0..3 {
            words[2 * list..2 * list + 2].copy_from_slice(&[50, 8 + 64 * list as u32]);
        }
        let words = device.buffer_of(&words).unwrap();
        let qkv = floats(&device, float, &numbers(&mut rng, 16 * 8 * 64));
        let mut out = poisoned(&device, float, 16 * 4 * 64);

        device
            .attention(Attention {
                float,
                qkv: qkv.slice(),
                out: out.slice_mut(),
                num_tokens: 16,
                num_heads: 4,
                cache: &cache,
                layer: 0,
                tables: &tables,
                plan: words.slice(),
                grid: PlanGrid { decodes: 30, merges: 30, prefills: 30 },
                scoring: Scoring::scaled(0.1),
                workspace: &mut workspace,
            })
            .unwrap();
        device.synchronize().unwrap();
    }
}

#[test]
fn more_than_the_limits_is_refused() {
    let limits =
        PlanLimits { group: 2, max_rows: 2, max_tokens: 32, max_chunks: 8, prefill_tile: 64 };
    let mut plan = Plan::new(limits).unwrap();
    let row = |num_tokens, num_computed| sconce_kernels::cuda::PlanRow {
        first_token: 0,
        num_tokens,
        num_computed,
        table: 0,
    };

    assert!(plan.build(&[row(16, 0), row(16, 100)]).is_ok());
    assert!(plan.build(&[row(1, 0); 3]).is_err());
    assert!(plan.build(&[row(33, 0)]).is_err());
    assert!(plan.build(&[row(1, usize::MAX)]).is_err());
    assert!(Plan::with_chunk(limits, 100).is_err());
}
