//! A batch of sequences, run on the device and by a naive loop.

use rand::seq::SliceRandom;
use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{
    Attention, AttentionWorkspace, BlockTables, KvCache, KvDtype, KvSlices, Plan, PlanLimits,
    PlanRow, Scoring, prefill_tile,
};

use super::super::*;

/// A sequence whose content follows from its seed and its length alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    pub(super) seed: u64,
    pub(super) num_computed: usize,
    pub(super) num_tokens: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) float: Float,
    pub(super) dtype: KvDtype,
    /// Of queries, of keys.
    pub(super) heads: [usize; 2],
    pub(super) head_dim: usize,
    pub(super) block_size: usize,
    pub(super) rows: Vec<Sequence>,
    /// Tokens after the rows'.
    pub(super) padding: usize,
    pub(super) chunk: usize,
    pub(super) max_chunks: usize,
    pub(super) window: Option<usize>,
    pub(super) soft_cap: Option<f32>,
    pub(super) has_sinks: bool,
    /// Runs by a graph that was captured before the plan was made; for rows that decode.
    pub(super) is_captured: bool,
}

/// A sequence's keys and values, `[num_kv_heads][position][head_dim]`, as the cache holds them and as
/// numbers.
struct Content {
    bytes: [Vec<u8>; 2],
    scales: [Vec<f32>; 2],
    numbers: [Vec<f64>; 2],
}

const SCALE: f32 = 0.4;

impl Case {
    pub(super) fn new(float: Float) -> Self {
        Self {
            float,
            dtype: KvDtype::Float(float),
            heads: [4, 2],
            head_dim: 64,
            block_size: 16,
            rows: Vec::new(),
            padding: 0,
            chunk: 256,
            max_chunks: 1000,
            window: None,
            soft_cap: None,
            has_sinks: false,
            is_captured: false,
        }
    }

    fn num_tokens(&self) -> usize {
        self.rows.iter().map(|row| row.num_tokens).sum::<usize>() + self.padding
    }

    /// Of a longer sequence, the first positions have the same.
    fn content(&self, row: &Sequence) -> Content {
        let positions = row.num_computed + row.num_tokens;
        let [_, kv_heads] = self.heads;
        let mut content = Content {
            bytes: [vec![], vec![]],
            scales: [vec![], vec![]],
            numbers: [vec![], vec![]],
        };
        for (part, head) in (0..2).flat_map(|part| (0..kv_heads).map(move |head| (part, head))) {
            let mut rng = rng(row.seed * 1000 + part as u64 * 100 + head as u64);
            for _ in 0..positions {
                let scale = if self.dtype == KvDtype::Int8 {
                    rng.random_range(1..20) as f32 / 1024.0
                } else {
                    1.0
                };
                content.scales[part].push(scale);
                for _ in 0..self.head_dim {
                    let (bytes, number) = element(&mut rng, self.dtype);
                    content.bytes[part].extend(bytes);
                    content.numbers[part].push(number * f64::from(scale));
                }
            }
        }
        content
    }

    /// `[num_tokens][num_heads][head_dim]`
    fn queries(&self, row: &Sequence) -> Vec<f32> {
        let tokens = (row.num_computed..row.num_computed + row.num_tokens).map(|position| {
            numbers(&mut rng(row.seed * 77_777 + position as u64), self.heads[0] * self.head_dim)
        });
        tokens.flatten().collect()
    }

    fn sinks(&self) -> Vec<f32> {
        (0..self.heads[0]).map(|head| head as f32 * 0.7 - 1.0).collect()
    }

    /// `[num_tokens][num_heads][head_dim]`; padding is what is no number.
    fn reference(&self) -> Vec<f64> {
        let mut out = Vec::new();
        for row in &self.rows {
            let (content, queries) = (self.content(row), self.queries(row));
            let positions = row.num_computed + row.num_tokens;
            for (i, query) in queries.chunks_exact(self.head_dim).enumerate() {
                let (token, head) = (i / self.heads[0], i % self.heads[0]);
                let kv_head = head / (self.heads[0] / self.heads[1]);
                let part = |part: usize| {
                    let len = positions * self.head_dim;
                    &content.numbers[part][kv_head * len..][..len]
                };
                let end = row.num_computed + token + 1;
                let begin = end.saturating_sub(self.window.unwrap_or(end));
                let sink = self.has_sinks.then(|| f64::from(self.sinks()[head]));
                out.extend(self.attend(query, [part(0), part(1)], begin..end, sink));
            }
        }
        out.resize(self.num_tokens() * self.heads[0] * self.head_dim, f64::NAN);
        out
    }

    fn attend(
        &self,
        query: &[f32],
        [keys, values]: [&[f64]; 2],
        seen: std::ops::Range<usize>,
        sink: Option<f64>,
    ) -> Vec<f64> {
        let score = |position: usize| {
            let key = &keys[position * self.head_dim..][..self.head_dim];
            let product = query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum::<f64>();
            let score = product * f64::from(SCALE);
            self.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<_> = seen.clone().map(score).collect();
        let largest = scores.iter().chain(&sink).fold(f64::MIN, |a, b| a.max(*b));
        let sum = scores.iter().chain(&sink).map(|score| (score - largest).exp()).sum::<f64>();
        let mut out = vec![0.0; self.head_dim];
        for (score, position) in scores.iter().zip(seen) {
            let weight = (score - largest).exp() / sum;
            for (out, value) in out.iter_mut().zip(&values[position * self.head_dim..]) {
                *out += weight * value;
            }
        }
        out
    }

    /// Runs on the device; `[num_tokens][num_heads][head_dim]`.
    pub(super) fn run(&self) -> Vec<f32> {
        let device = device();
        let (shape, block_lists) = self.blocks();
        let cache = self.cache(&device, shape, &block_lists);
        let columns = block_lists.iter().map(Vec::len).max().unwrap_or(0) + 2;
        let mut tables = BlockTables::new(&device, self.rows.len() + 2, columns).unwrap();
        let mut words = vec![u32::MAX; tables.num_rows() * columns];
        // The tables' order is not the rows'.
        for (i, blocks) in block_lists.iter().enumerate() {
            words[(self.rows.len() - i) * columns..][..blocks.len()].copy_from_slice(blocks);
        }
        device.upload(&mut tables.slice_mut(), &words).unwrap();

        let mut plan = Plan::with_chunk(self.limits(), self.chunk).unwrap();
        plan.build(&self.plan_rows()).unwrap();
        let mut uploaded = plan.words().to_vec();
        assert!(uploaded.len() <= plan.max_words());
        uploaded.resize(plan.max_words(), u32::MAX);
        let mut workspace = AttentionWorkspace::new(&device, &plan, &shape).unwrap();
        for mut part in workspace.buffers_mut() {
            device.fill(&mut part, 0xff).unwrap();
        }

        let num_tokens = self.num_tokens();
        let (qkv, sinks) = (self.qkv(&device), device.buffer_of(&self.sinks()).unwrap());
        let mut plan_words = device.alloc_zeroed(size_of_val(uploaded.as_slice())).unwrap();
        let mut out = poisoned(&device, self.float, num_tokens * self.heads[0] * self.head_dim);
        let upload = |words: &mut Buffer| device.upload(&mut words.slice_mut(), &uploaded).unwrap();
        if !self.is_captured {
            upload(&mut plan_words);
        }
        let mut ask = || {
            device.attention(Attention {
                float: self.float,
                qkv: qkv.slice(),
                out: out.slice_mut(),
                num_tokens,
                num_heads: self.heads[0],
                cache: &cache,
                layer: 1,
                tables: &tables,
                plan: plan_words.slice(),
                grid: if self.is_captured {
                    plan.decode_grid(self.rows.len())
                } else {
                    plan.grid()
                },
                scoring: Scoring {
                    scale: SCALE,
                    soft_cap: self.soft_cap,
                    window: self.window,
                    sinks: self.has_sinks.then(|| sinks.slice()),
                },
                workspace: &mut workspace,
            })
        };
        if self.is_captured {
            let graph = device.capture(ask).unwrap();
            upload(&mut plan_words);
            graph.launch().unwrap();
        } else {
            ask().unwrap();
        }
        values(&device, self.float, out.slice())
    }

    /// Runs, and compares with the reference.
    #[track_caller]
    pub(super) fn check(&self) {
        let what = format!("{self:?}");
        let (given, expected) = (self.run(), self.reference());
        let live = given.len() - self.padding * self.heads[0] * self.head_dim;
        assert_near(&given[..live], &expected[..live], tolerance(self.float), &what);
        assert!(given[live..].iter().all(|x| x.is_nan()), "padding was written: {what}");
    }

    pub(super) fn limits(&self) -> PlanLimits {
        PlanLimits {
            group: self.heads[0] / self.heads[1],
            max_rows: self.rows.len(),
            max_tokens: self.num_tokens(),
            max_chunks: self.max_chunks,
            prefill_tile: prefill_tile(self.head_dim),
        }
    }

    pub(super) fn plan_rows(&self) -> Vec<PlanRow> {
        let mut first_token = 0;
        let rows = self.rows.iter().enumerate().map(|(i, row)| {
            let &Sequence { num_computed, num_tokens, .. } = row;
            let table = self.rows.len() - i;
            first_token += num_tokens;
            PlanRow { first_token: first_token - num_tokens, num_tokens, num_computed, table }
        });
        rows.collect()
    }

    /// Scatters the rows over the blocks of a cache.
    fn blocks(&self) -> (KvShape, Vec<Vec<u32>>) {
        let counts: Vec<_> = (self.rows.iter())
            .map(|row| (row.num_computed + row.num_tokens).div_ceil(self.block_size))
            .collect();
        let num_blocks = counts.iter().sum::<usize>() + 3;
        let mut ids: Vec<_> = (0..num_blocks as u32).collect();
        ids.shuffle(&mut rng(num_blocks as u64));
        let lists = counts.iter().map(|count| ids.drain(..count).collect()).collect();
        let &Self { block_size, head_dim, .. } = self;
        let shape = KvShape {
            num_layers: 2,
            num_blocks,
            block_size,
            num_kv_heads: self.heads[1],
            head_dim,
        };
        (shape, lists)
    }

    /// A cache that holds the rows, and no numbers elsewhere.
    fn cache(&self, device: &Device, shape: KvShape, block_lists: &[Vec<u32>]) -> KvCache {
        let [_, kv_heads] = self.heads;
        let size = self.head_dim * self.dtype.size();
        let num_slots = shape.num_blocks * kv_heads * self.block_size;
        let mut bytes = [vec![0xff; num_slots * size], vec![0xff; num_slots * size]];
        let mut scales = [vec![f32::NAN; num_slots], vec![f32::NAN; num_slots]];
        for (row, blocks) in self.rows.iter().zip(block_lists) {
            let content = self.content(row);
            let positions = row.num_computed + row.num_tokens;
            for (head, position) in
                (0..kv_heads).flat_map(|head| (0..positions).map(move |p| (head, p)))
            {
                let block = blocks[position / self.block_size] as usize;
                let to = (block * kv_heads + head) * self.block_size + position % self.block_size;
                let from = head * positions + position;
                for part in 0..2 {
                    bytes[part][to * size..][..size]
                        .copy_from_slice(&content.bytes[part][from * size..][..size]);
                    scales[part][to] = content.scales[part][from];
                }
            }
        }
        let mut cache = KvCache::new(device, shape, self.dtype).unwrap();
        let KvSlices { mut keys, values: mut to_values, key_scales, value_scales } =
            cache.layer_mut(1);
        device.upload(&mut keys, &bytes[0]).unwrap();
        device.upload(&mut to_values, &bytes[1]).unwrap();
        for (to, scales) in [key_scales, value_scales].into_iter().zip(&scales) {
            if let Some(mut to) = to {
                device.upload(&mut to, scales).unwrap();
            }
        }
        cache
    }

    /// Queries; what stands for keys, values and padding is no number.
    fn qkv(&self, device: &Device) -> Buffer {
        let rest = 2 * self.heads[1] * self.head_dim;
        let mut qkv = Vec::new();
        for row in &self.rows {
            for query in self.queries(row).chunks_exact(self.heads[0] * self.head_dim) {
                qkv.extend_from_slice(query);
                qkv.extend(std::iter::repeat_n(f32::NAN, rest));
            }
        }
        let row = (self.heads[0] + 2 * self.heads[1]) * self.head_dim;
        qkv.resize(self.num_tokens() * row, f32::NAN);
        floats(device, self.float, &qkv)
    }
}

/// A random element as its bytes and as a number.
fn element(rng: &mut StdRng, dtype: KvDtype) -> (Vec<u8>, f64) {
    let number = rng.random_range(-128..=128) as f32 / 128.0;
    let exact = |bytes: &[u8], number: f32| (bytes.to_vec(), f64::from(number));
    match dtype {
        KvDtype::Float(Float::F32) => exact(&number.to_le_bytes(), number),
        KvDtype::Float(Float::F16) => exact(&f16::from_f32(number).to_le_bytes(), number),
        KvDtype::Float(Float::BF16) => exact(&bf16::from_f32(number).to_le_bytes(), number),
        KvDtype::Fp8 => {
            // Between 2^-6 and 2, so that there are neither infinities nor numbers that are not.
            let code = rng.random_range(0x08..0x40) | rng.random_range(0..2) << 7;
            (vec![code], fp8(code))
        }
        KvDtype::Int8 => {
            let code: i8 = rng.random_range(-127..=127);
            (vec![code.cast_unsigned()], f64::from(code))
        }
    }
}
