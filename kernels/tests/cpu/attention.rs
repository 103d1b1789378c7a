//! Paged attention against a plain softmax in f64, and its independence of batch and chunk.

use half::{bf16, f16};
use sconce_kernels::cpu::{
    Attention, AttentionRow, Cpu, KvCache, KvDtype, KvShape, RopeAndCache, RopeStyle, RopeTable,
};

use crate::reference::int8_rounded;
use crate::{Random, devices, guarded};

/// A model's attention dimensions.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) num_q: usize,
    pub(crate) num_kv: usize,
    pub(crate) dim: usize,
    pub(crate) block_size: usize,
}

impl Heads {
    fn row(self) -> usize {
        (self.num_q + 2 * self.num_kv) * self.dim
    }
}

/// A sequence: its queries, keys and values (`[len, row]`), and the blocks it lives in.
pub(crate) struct Sequence {
    qkv: Vec<f32>,
    blocks: Vec<u32>,
}

/// Sequences in scattered blocks, with all their keys and values in the cache.
pub(crate) fn fill(
    cpu: &Cpu,
    heads: Heads,
    lens: &[usize],
    dtype: KvDtype,
) -> (KvCache, Vec<Sequence>) {
    let mut random = Random(lens.len() as u64 + heads.dim as u64);
    let blocks_of = |len: usize| len.div_ceil(heads.block_size);
    let num_blocks = lens.iter().map(|&len| blocks_of(len)).sum::<usize>() + 3;
    let mut free: Vec<u32> = (0..num_blocks as u32).collect();
    let shape = KvShape {
        num_layers: 2,
        num_blocks,
        block_size: heads.block_size,
        num_kv_heads: heads.num_kv,
        head_dim: heads.dim,
    };
    let mut kv = KvCache::new(shape, dtype).unwrap();
    let table = RopeTable::new(&[0.0], 1 << 16, 1.0, RopeStyle::Half).unwrap();
    let mut sequences = Vec::new();
    for &len in lens {
        let blocks: Vec<u32> =
            (0..blocks_of(len)).map(|_| free.swap_remove(random.below(free.len()))).collect();
        let mut qkv = random.floats(len * heads.row());
        let slot = |i: usize| {
            blocks[i / heads.block_size] * heads.block_size as u32 + (i % heads.block_size) as u32
        };
        let args = RopeAndCache {
            qkv: &mut qkv,
            num_q_heads: heads.num_q,
            norms: None,
            positions: &(0..len as u32).collect::<Vec<_>>(),
            table: &table,
            slot_mapping: &(0..len).map(slot).collect::<Vec<_>>(),
            layer: 1,
        };
        cpu.rope_and_cache(args, &mut kv).unwrap();
        sequences.push(Sequence { qkv, blocks });
    }
    (kv, sequences)
}

/// A sequence, and which of its tokens are computed.
type Row<'a> = (&'a Sequence, usize, usize);

/// Runs the last tokens of each sequence in one call.
fn attend(cpu: &Cpu, heads: Heads, kv: &KvCache, rows: &[Row<'_>]) -> Vec<f32> {
    attend_at(cpu, heads, kv, rows, 0)
}

/// How scores become weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scoring {
    soft_cap: Option<f32>,
    window: Option<usize>,
}

/// As `attend`, with queries and output so many floats behind where their memory starts.
pub(crate) fn attend_at(
    cpu: &Cpu,
    heads: Heads,
    kv: &KvCache,
    rows: &[Row<'_>],
    offset: usize,
) -> Vec<f32> {
    attend_as(cpu, (heads, Scoring::default()), kv, rows, offset)
}

fn attend_as(
    cpu: &Cpu,
    (heads, scoring): (Heads, Scoring),
    kv: &KvCache,
    rows: &[Row<'_>],
    offset: usize,
) -> Vec<f32> {
    let (mut qkv, mut tables, mut args_rows) = (vec![f32::NAN; offset], vec![0; 5], Vec::new());
    let mut first_token = 0;
    for &(sequence, start, end) in rows {
        qkv.extend_from_slice(&sequence.qkv[start * heads.row()..end * heads.row()]);
        args_rows.push(AttentionRow {
            first_token,
            num_tokens: end - start,
            num_computed: start,
            first_block: tables.len(),
            num_blocks: sequence.blocks.len(),
        });
        tables.extend_from_slice(&sequence.blocks);
        first_token += end - start;
    }
    let args = Attention {
        qkv: &qkv[offset..],
        num_q_heads: heads.num_q,
        scale: 1.0,
        soft_cap: scoring.soft_cap,
        window: scoring.window,
        layer: 1,
        rows: &args_rows,
        block_tables: &tables,
    };
    guarded(first_token * heads.num_q * heads.dim, offset, |out| {
        cpu.attention(args, kv, out).unwrap();
    })
}

/// A head's elements as the cache has them.
fn stored(head: &[f32], dtype: KvDtype) -> Vec<f64> {
    match dtype {
        KvDtype::F16 => head.iter().map(|value| f16::from_f32(*value).to_f64()).collect(),
        KvDtype::BF16 => head.iter().map(|value| bf16::from_f32(*value).to_f64()).collect(),
        KvDtype::F32 => head.iter().map(|value| f64::from(*value)).collect(),
        KvDtype::Int8 => {
            let group = |group: &[f32]| {
                let scale = group.iter().fold(0.0_f32, |a, b| a.max(b.abs())) / 127.0;
                let inverse = 1.0 / scale;
                let code = move |value: &f32| f64::from((value * inverse).round_ties_even());
                let scale = f16::from_f32(scale).to_f64();
                group.iter().map(move |value| code(value) * scale).collect::<Vec<_>>()
            };
            head.chunks(32).flat_map(group).collect()
        }
    }
}

pub(crate) fn naive(heads: Heads, sequence: &Sequence, token: usize, dtype: KvDtype) -> Vec<f64> {
    naive_as((heads, Scoring::default()), sequence, token, dtype)
}

fn naive_as(
    (heads, scoring): (Heads, Scoring),
    sequence: &Sequence,
    token: usize,
    dtype: KvDtype,
) -> Vec<f64> {
    let first = (token + 1).saturating_sub(scoring.window.unwrap_or(usize::MAX));
    let at = |token: usize, head: usize| {
        &sequence.qkv[token * heads.row() + head * heads.dim..][..heads.dim]
    };
    let mut out = Vec::new();
    for head in 0..heads.num_q {
        let kv_head = head / (heads.num_q / heads.num_kv);
        let query = match dtype {
            KvDtype::F16 | KvDtype::F32 => at(token, head).to_vec(),
            KvDtype::BF16 => {
                at(token, head).iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
            }
            KvDtype::Int8 => int8_rounded(at(token, head)),
        };
        let score = |position: usize| -> f64 {
            let key = stored(at(position, heads.num_q + kv_head), dtype);
            let score: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum();
            match scoring.soft_cap.map(f64::from) {
                _ if position < first => f64::NEG_INFINITY,
                Some(cap) => cap * (score / cap).tanh(),
                None => score,
            }
        };
        let scores: Vec<f64> = (0..=token).map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let mut weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        if dtype == KvDtype::BF16 {
            // Each 256 positions have a largest score of their own.
            for weights in weights.chunks_mut(256) {
                let largest = weights.iter().copied().fold(0.0, f64::max);
                for weight in weights.iter_mut().filter(|weight| **weight > 0.0) {
                    *weight = bf16::from_f64(*weight / largest).to_f64() * largest;
                }
            }
        }
        let values: Vec<_> = (0..=token)
            .map(|p| stored(at(p, heads.num_q + heads.num_kv + kv_head), dtype))
            .collect();
        out.extend((0..heads.dim).map(|dim| {
            let pairs = weights.iter().zip(&values);
            pairs.map(|(weight, value)| weight * value[dim]).sum::<f64>() / total
        }));
    }
    out
}

const SHAPES: [Heads; 5] = [
    Heads { num_q: 9, num_kv: 3, dim: 64, block_size: 16 },
    Heads { num_q: 4, num_kv: 4, dim: 128, block_size: 32 },
    Heads { num_q: 14, num_kv: 1, dim: 16, block_size: 16 },
    Heads { num_q: 8, num_kv: 2, dim: 80, block_size: 48 },
    Heads { num_q: 6, num_kv: 2, dim: 96, block_size: 32 },
];

/// How far an element may be off. A weight may be rounded to either neighbor where it is halfway.
pub(crate) fn bound(dtype: KvDtype) -> f64 {
    match dtype {
        KvDtype::F16 | KvDtype::F32 => 5e-6,
        KvDtype::Int8 => 2e-5,
        KvDtype::BF16 => 4e-3,
    }
}

/// The shapes that a cache of a type can have.
fn shapes(dtype: KvDtype) -> impl Iterator<Item = Heads> {
    SHAPES.into_iter().filter(move |heads| heads.dim % dtype.group() == 0)
}

fn devices_and_types() -> Vec<(Cpu, KvDtype)> {
    let types = [KvDtype::F16, KvDtype::BF16, KvDtype::Int8];
    types.into_iter().flat_map(|dtype| devices().into_iter().map(move |cpu| (cpu, dtype))).collect()
}

#[test]
fn ragged_mixes_match_a_plain_softmax() {
    for cpu in devices() {
        for dtype in [KvDtype::F16, KvDtype::BF16, KvDtype::F32, KvDtype::Int8] {
            for heads in shapes(dtype) {
                let (kv, sequences) = fill(&cpu, heads, &[1, 300, 40, 16, 257, 600], dtype);
                let [a, b, c, d, e, f] = &sequences[..] else { unreachable!() };
                let rows = [
                    (a, 0, 1),
                    (b, 299, 300),
                    (c, 3, 40),
                    (d, 15, 16),
                    (e, 250, 257),
                    (f, 590, 600),
                ];

                let out = attend(&cpu, heads, &kv, &rows);

                let width = heads.num_q * heads.dim;
                let (mut total, num) = (0.0, out.len() as f64);
                let mut tokens = out.chunks(width);
                for (sequence, start, end) in rows {
                    for token in start..end {
                        let expected = naive(heads, sequence, token, dtype);
                        for (given, expected) in tokens.next().unwrap().iter().zip(expected) {
                            let error = (f64::from(*given) - expected).abs();
                            assert!(error < bound(dtype), "{} {given} {expected}", cpu.isa());
                            total += error;
                        }
                    }
                }
                let most = if dtype == KvDtype::BF16 { 1e-5 } else { 2e-6 };
                assert!(total / num < most, "{} {dtype:?}: mean {}", cpu.isa(), total / num);
            }
        }
    }
}

#[test]
fn windows_and_caps_match_a_plain_softmax() {
    let scorings = [
        Scoring { soft_cap: Some(2.0), window: None },
        Scoring { soft_cap: None, window: Some(1) },
        Scoring { soft_cap: None, window: Some(37) },
        Scoring { soft_cap: Some(3.0), window: Some(256) },
        Scoring { soft_cap: None, window: Some(300) },
    ];
    for cpu in devices() {
        for dtype in [KvDtype::F16, KvDtype::BF16, KvDtype::F32, KvDtype::Int8] {
            for heads in shapes(dtype).step_by(2) {
                let (kv, sequences) = fill(&cpu, heads, &[1, 300, 40, 900], dtype);
                let [a, b, c, d] = &sequences[..] else { unreachable!() };
                for scoring in scorings {
                    let rows = [(a, 0, 1), (b, 290, 300), (c, 3, 40), (d, 899, 900)];

                    let out = attend_as(&cpu, (heads, scoring), &kv, &rows, 0);

                    let mut tokens = out.chunks(heads.num_q * heads.dim);
                    for (sequence, start, end) in rows {
                        for token in start..end {
                            let expected = naive_as((heads, scoring), sequence, token, dtype);
                            for (given, expected) in tokens.next().unwrap().iter().zip(expected) {
                                let error = (f64::from(*given) - expected).abs();
                                let what = format!("{} {scoring:?}", cpu.isa());
                                assert!(error < bound(dtype), "{what}: {given} {expected}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn behind_a_window_chunks_batches_and_shared_blocks_change_no_bit() {
    for (cpu, dtype) in devices_and_types() {
        for heads in shapes(dtype).step_by(2) {
            let lens = [900, 530, 800];
            let (kv, sequences) = fill(&cpu, heads, &lens, dtype);
            let sequences = behind_a_prefix(&sequences, heads, &[0, 512, 768]);
            let width = heads.num_q * heads.dim;
            for window in [20, 270, 600] {
                let scoring = Scoring { soft_cap: None, window: Some(window) };
                let attend = |rows: &[Row<'_>]| attend_as(&cpu, (heads, scoring), &kv, rows, 0);

                let whole = attend(&[(&sequences[0], 0, 900)]);

                for (start, end) in [(0, 100), (250, 263), (511, 700), (899, 900)] {
                    let alone = attend(&[(&sequences[0], start, end)]);
                    assert_eq!(alone, whole[start * width..end * width], "{start}..{end}");
                }
                let rows: Vec<_> = (sequences.iter().zip(lens))
                    .map(|(sequence, len)| (sequence, len - 1, len))
                    .collect();
                let alone: Vec<f32> = rows.iter().flat_map(|row| attend(&[*row])).collect();
                assert_eq!(attend(&rows), alone);
            }
        }
    }
}

#[test]
fn chunks_and_batches_change_no_bit() {
    for (cpu, dtype) in devices_and_types() {
        for heads in shapes(dtype) {
            let (kv, sequences) = fill(&cpu, heads, &[700, 90], dtype);
            let [long, short] = &sequences[..] else { unreachable!() };
            let width = heads.num_q * heads.dim;

            let whole = attend(&cpu, heads, &kv, &[(long, 0, 700)]);

            for (start, end) in [(0, 1), (0, 100), (100, 101), (250, 263), (511, 700), (699, 700)] {
                let alone = attend(&cpu, heads, &kv, &[(long, start, end)]);
                assert_eq!(alone, whole[start * width..end * width], "{start}..{end}");
                let rows = [(short, 0, 90), (long, start, end), (short, 89, 90)];
                let batch = attend(&cpu, heads, &kv, &rows);
                assert_eq!(batch[90 * width..][..alone.len()], alone);
            }
        }
    }
}

/// Sequences of the given lengths, the first `shared` positions of each in blocks of the first.
fn behind_a_prefix(sequences: &[Sequence], heads: Heads, shared: &[usize]) -> Vec<Sequence> {
    let own = |(sequence, &shared): (&Sequence, &usize)| {
        let mut blocks = sequence.blocks.clone();
        let num_shared = shared / heads.block_size;
        blocks[..num_shared].copy_from_slice(&sequences[0].blocks[..num_shared]);
        Sequence { qkv: sequence.qkv.clone(), blocks }
    };
    sequences.iter().zip(shared).map(own).collect()
}

#[test]
fn rows_that_share_blocks_get_what_they_get_alone() {
    for (cpu, dtype) in devices_and_types() {
        for heads in shapes(dtype) {
            let lens = [900, 530, 800, 300, 810, 770, 600];
            let (kv, sequences) = fill(&cpu, heads, &lens, dtype);
            // Prefixes of other lengths, within a split and at its end; one shares nothing.
            let shared = [0, 512, 768, 256, 768, 0, 576];
            let sequences = behind_a_prefix(&sequences, heads, &shared);
            for num_tokens in [1, 3] {
                let rows: Vec<_> = (sequences.iter().zip(lens))
                    .map(|(sequence, len)| (sequence, len - num_tokens, len))
                    .collect();
                let alone: Vec<f32> =
                    rows.iter().flat_map(|row| attend(&cpu, heads, &kv, &[*row])).collect();

                let together = attend(&cpu, heads, &kv, &rows);

                assert_eq!(together, alone);
            }
            let mixed =
                [(&sequences[2], 799, 800), (&sequences[0], 0, 900), (&sequences[4], 807, 810)];
            let alone: Vec<f32> =
                mixed.iter().flat_map(|row| attend(&cpu, heads, &kv, &[*row])).collect();
            assert_eq!(attend(&cpu, heads, &kv, &mixed), alone);
        }
    }
}

#[test]
fn copied_blocks_hold_the_same_in_every_layer() {
    for (cpu, dtype) in devices_and_types() {
        let heads = SHAPES[0];
        let (mut kv, mut sequences) = fill(&cpu, heads, &[40], dtype);
        let before = attend(&cpu, heads, &kv, &[(&sequences[0], 0, 40)]);
        let used = sequences[0].blocks.clone();
        let free: Vec<u32> = (0..6).filter(|block| !used.contains(block)).collect();

        let pairs: Vec<_> = used.iter().copied().zip(free.iter().copied()).collect();
        cpu.copy_blocks(&mut kv, &pairs).unwrap();

        sequences[0].blocks = free;
        assert_eq!(attend(&cpu, heads, &kv, &[(&sequences[0], 0, 40)]), before);
        assert!(cpu.copy_blocks(&mut kv, &[(0, 6)]).is_err());
        assert!(cpu.copy_blocks(&mut kv, &[(6, 0)]).is_err());
        cpu.copy_blocks(&mut kv, &[(0, 0)]).unwrap();
    }
}

#[test]
fn positions_not_seen_may_hold_anything() {
    for (cpu, dtype) in devices_and_types() {
        let heads = SHAPES[0];
        let (mut kv, sequences) = fill(&cpu, heads, &[20], dtype);
        let before = attend(&cpu, heads, &kv, &[(&sequences[0], 18, 19)]);
        let table = RopeTable::new(&[0.0], 100, 1.0, RopeStyle::Half).unwrap();

        let args = RopeAndCache {
            qkv: &mut vec![f32::NAN; heads.row()],
            num_q_heads: heads.num_q,
            norms: None,
            positions: &[19],
            table: &table,
            slot_mapping: &[sequences[0].blocks[1] * 16 + 3],
            layer: 1,
        };
        cpu.rope_and_cache(args, &mut kv).unwrap();

        assert_eq!(attend(&cpu, heads, &kv, &[(&sequences[0], 18, 19)]), before);
    }
}

#[test]
fn a_nan_in_a_query_reaches_the_output() {
    for cpu in devices() {
        let heads = SHAPES[0];
        let (kv, mut sequences) = fill(&cpu, heads, &[20], KvDtype::F16);
        sequences[0].qkv[19 * heads.row()] = f32::NAN;

        let out = attend(&cpu, heads, &kv, &[(&sequences[0], 18, 20)]);

        assert!(out[576..640].iter().all(|value| value.is_nan()));
        assert!(out[..576].iter().chain(&out[640..]).all(|value| value.is_finite()));
    }
}

#[test]
fn attention_refuses_what_is_out_of_range() {
    let cpu = &devices()[0];
    let heads = SHAPES[0];
    let (kv, sequences) = fill(cpu, heads, &[40], KvDtype::F16);
    let tables = &sequences[0].blocks;
    let qkv = vec![0.0; 2 * heads.row()];
    let good = AttentionRow {
        first_token: 0,
        num_tokens: 2,
        num_computed: 38,
        first_block: 0,
        num_blocks: 3,
    };
    let run = |row: AttentionRow, block_tables: &[u32], layer, num_q_heads| {
        let rows = [row];
        let args = Attention {
            qkv: &qkv,
            num_q_heads,
            scale: 1.0,
            soft_cap: None,
            window: None,
            layer,
            rows: &rows,
            block_tables,
        };
        cpu.attention(args, &kv, &mut vec![0.0; 2 * 576]).is_ok()
    };

    assert!(run(good, tables, 1, 9));
    assert!(!run(good, tables, 2, 9));
    assert!(!run(good, tables, 1, 8));
    assert!(!run(good, &[0, 1, 6], 1, 9));
    assert!(!run(good, &tables[..2], 1, 9));
    assert!(!run(AttentionRow { num_computed: 47, ..good }, tables, 1, 9));
    assert!(!run(AttentionRow { num_tokens: 1, ..good }, tables, 1, 9));
    assert!(!run(AttentionRow { num_tokens: 3, ..good }, tables, 1, 9));
    assert!(!run(AttentionRow { first_token: 1, ..good }, tables, 1, 9));
    assert!(!run(AttentionRow { first_block: 1, ..good }, tables, 1, 9));
    assert!(!run(AttentionRow { num_blocks: usize::MAX, ..good }, tables, 1, 9));
    let shape = kv.shape();
    assert!(KvCache::new(KvShape { head_dim: 40, ..shape }, KvDtype::F16).is_err());
    assert!(KvCache::new(KvShape { block_size: 8, ..shape }, KvDtype::F16).is_err());
    assert!(KvCache::new(KvShape { num_blocks: 0, ..shape }, KvDtype::F16).is_err());
    assert!(KvCache::new(KvShape { num_blocks: usize::MAX, ..shape }, KvDtype::F16).is_err());
}
