//! Plans that lie.

use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{
    Attention, AttentionWorkspace as Workspace, BlockTables, KvCache, Plan, PlanGrid, PlanLimits,
    PlanRow, Scoring,
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
    let row =
        |num_tokens, num_computed| PlanRow { first_token: 0, num_tokens, num_computed, table: 0 };

    assert!(plan.build(&[row(16, 0), row(16, 100)]).is_ok());
    assert!(plan.build(&[row(1, 0); 3]).is_err());
    assert!(plan.build(&[row(33, 0)]).is_err());
    assert!(plan.build(&[row(1, usize::MAX)]).is_err());
    assert!(Plan::with_chunk(limits, 100).is_err());
}

/// Records of a plan's list.
fn records(words: &[u32], list: usize) -> Vec<[usize; 8]> {
    let (count, begin) = (words[2 * list] as usize, words[2 * list + 1] as usize);
    let records = words[begin..begin + 8 * count].as_chunks().0;
    records.iter().map(|record| record.map(|word| word as usize)).collect()
}

#[test]
fn every_query_sees_each_of_its_keys_once() {
    for seed in 0..200 {
        let mut rng = rng(seed);
        let group = rng.random_range(1..=16);
        let mut first_token = 0;
        let rows: Vec<_> = (0..rng.random_range(1..12))
            .map(|table| {
                let num_tokens = [0, 1, 1, 3, 8, 9, 200][rng.random_range(0..7)];
                first_token += num_tokens;
                let num_computed = [0, 255, 256, 5000][rng.random_range(0..4)];
                let first_token = first_token - num_tokens;
                PlanRow { first_token, num_tokens, num_computed, table }
            })
            .collect();
        let prefill_tile = [64, 128][rng.random_range(0..2)];
        let max_chunks = rng.random_range(1..100);
        let (max_rows, max_tokens) = (rows.len(), first_token);
        let limits = PlanLimits { group, max_rows, max_tokens, max_chunks, prefill_tile };
        let mut plan = Plan::new(limits).unwrap();

        plan.build(&rows).unwrap();

        assert!(plan.words().len() <= plan.max_words());
        let mut seen = vec![0; first_token * group];
        let mut partial_rows = vec![0; plan.max_partials()];
        for (list, tile) in [(0, 16), (2, prefill_tile)] {
            for [first, tokens, computed, table, query, begin, end, partial] in
                records(plan.words(), list)
            {
                assert_eq!((first, tokens), (rows[table].first_token, rows[table].num_tokens));
                let queries = tile.min(tokens * group - query);
                for i in query..query + queries {
                    seen[first * group + i] +=
                        end.min(computed + i / group + 1).saturating_sub(begin);
                }
                if partial != u32::MAX as usize {
                    partial_rows[partial..partial + queries].iter_mut().for_each(|row| *row += 1);
                }
            }
        }
        for [.., queries, parts, partial, _, _, _] in records(plan.words(), 1) {
            let rows = &mut partial_rows[partial..partial + queries * parts];
            rows.iter_mut().for_each(|row| *row -= 1);
        }
        for row in &rows {
            for i in 0..row.num_tokens * group {
                let expected = row.num_computed + i / group + 1;
                assert_eq!(seen[row.first_token * group + i], expected, "{seed}: {row:?}, {i}");
            }
        }
        // What was written is joined.
        assert!(partial_rows.iter().all(|row| *row == 0), "{seed}");
    }
}
