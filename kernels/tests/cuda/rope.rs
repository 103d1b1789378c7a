use sconce_kernels::cpu::{KvShape, RopeStyle};
use sconce_kernels::cuda::{
    HeadNorms, KvCache, KvDtype, KvSlices, NO_SLOT, RopeAndCache, RopeTable,
};

use super::*;

const MAX_POSITIONS: usize = 700;

#[derive(Clone, Copy, Debug)]
struct Case {
    float: Float,
    dtype: KvDtype,
    style: RopeStyle,
    heads: [usize; 2],
    head_dim: usize,
    rotary_dim: usize,
    has_bias: bool,
    has_norms: bool,
}

/// What is given and what must come out.
struct Step {
    positions: Vec<u32>,
    slots: Vec<u32>,
    qkv: Vec<f32>,
    bias: Vec<f32>,
    norms: [Vec<f32>; 2],
}

const EPSILON: f32 = 1e-3;
const MAGNITUDE: f32 = 1.25;
const BLOCK_SIZE: usize = 32;

impl Case {
    fn new(float: Float) -> Self {
        Self {
            float,
            dtype: KvDtype::Float(float),
            style: RopeStyle::Half,
            heads: [4, 2],
            head_dim: 64,
            rotary_dim: 64,
            has_bias: false,
            has_norms: false,
        }
    }

    fn all_heads(&self) -> usize {
        self.heads[0] + 2 * self.heads[1]
    }

    fn shape(&self) -> KvShape {
        KvShape {
            num_layers: 2,
            num_blocks: 5,
            block_size: BLOCK_SIZE,
            num_kv_heads: self.heads[1],
            head_dim: self.head_dim,
        }
    }

    fn inv_freq(&self) -> Vec<f32> {
        let dim = self.rotary_dim as f32;
        (0..self.rotary_dim / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / dim)).collect()
    }

    /// Two of the tokens are padding, one without a slot and one past all positions.
    fn step(&self) -> Step {
        let mut rng = rng(self.head_dim as u64);
        let width = self.all_heads() * self.head_dim;
        Step {
            positions: vec![0, 1, 699, 333, 17, 50_000, 6],
            slots: vec![3, 31, 32, 159, NO_SLOT, 5, 64],
            qkv: numbers(&mut rng, 7 * width),
            bias: numbers(&mut rng, width),
            norms: [numbers(&mut rng, self.head_dim), numbers(&mut rng, self.head_dim)],
        }
    }

    /// A token's head after bias, norm and rotation.
    fn head(&self, step: &Step, token: usize, head: usize) -> Vec<f64> {
        let dim = self.head_dim;
        let at = (token * self.all_heads() + head) * dim;
        let mut x: Vec<_> = step.qkv[at..at + dim].iter().map(|x| f64::from(*x)).collect();
        if self.has_bias {
            let bias = &step.bias[head * dim..];
            x.iter_mut().zip(bias).for_each(|(x, bias)| *x += f64::from(*bias));
        }
        let kind =
            usize::from(head >= self.heads[0]) + usize::from(head >= self.heads[0] + self.heads[1]);
        if kind == 2 {
            return x;
        }
        if self.has_norms {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
            let scale = (mean + f64::from(EPSILON)).sqrt().recip();
            x.iter_mut().zip(&step.norms[kind]).for_each(|(x, w)| *x *= scale * f64::from(*w));
        }
        for (i, frequency) in self.inv_freq().into_iter().enumerate() {
            let (a, b) = match self.style {
                RopeStyle::Half => (i, i + self.rotary_dim / 2),
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            };
            let angle = f64::from(step.positions[token]) * f64::from(frequency);
            let (sin, cos) =
                (angle.sin() * f64::from(MAGNITUDE), angle.cos() * f64::from(MAGNITUDE));
            (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
        }
        x
    }

    fn check(self) {
        let device = device();
        let step = self.step();
        let table = RopeTable::new(&device, &self.inv_freq(), MAX_POSITIONS, MAGNITUDE, self.style);
        let table = table.unwrap();
        let mut cache = KvCache::new(&device, self.shape(), self.dtype).unwrap();
        let KvSlices { mut keys, values: mut cached_values, key_scales, value_scales } =
            cache.layer_mut(1);
        let scales = [key_scales, value_scales].into_iter().flatten();
        for mut part in [keys.reborrow(), cached_values.reborrow()].into_iter().chain(scales) {
            device.fill(&mut part, 0xff).unwrap();
        }
        let upload = |values: &[f32]| floats(&device, self.float, values);
        let (mut qkv, bias) = (upload(&step.qkv), upload(&step.bias));
        let norms = step.norms.each_ref().map(|norm| upload(norm));
        let positions = device.buffer_of(&step.positions).unwrap();
        let slots = device.buffer_of(&step.slots).unwrap();

        device
            .rope_and_cache(RopeAndCache {
                float: self.float,
                qkv: qkv.slice_mut(),
                bias: self.has_bias.then(|| bias.slice()),
                norms: self.has_norms.then(|| HeadNorms {
                    query: norms[0].slice(),
                    key: norms[1].slice(),
                    epsilon: EPSILON,
                }),
                table: &table,
                positions: positions.slice(),
                slot_mapping: slots.slice(),
                cache: &mut cache,
                layer: 1,
                num_tokens: step.slots.len(),
                num_heads: self.heads[0],
            })
            .unwrap();

        let what = format!("{self:?}");
        let given = values(&device, self.float, qkv.slice());
        self.check_queries(&step, &given, &what);
        for part in 0..2 {
            self.check_cache(&step, &self.read_cache(&cache, part), part, &what);
        }
        let other = [cache.layer(0).keys, cache.layer(0).values];
        for slice in other {
            assert!(device.download::<u8>(slice).unwrap().iter().all(|x| *x == 0), "{what}");
        }
    }

    fn is_padding(step: &Step, token: usize) -> bool {
        step.slots[token] == NO_SLOT || step.positions[token] as usize >= MAX_POSITIONS
    }

    fn check_queries(&self, step: &Step, given: &[f32], what: &str) {
        let dim = self.head_dim;
        for token in 0..step.slots.len() {
            for head in 0..self.heads[0] {
                let at = (token * self.all_heads() + head) * dim;
                let expected = if Self::is_padding(step, token) {
                    step.qkv[at..at + dim].iter().map(|x| f64::from(*x)).collect()
                } else {
                    self.head(step, token, head)
                };
                assert_near(&given[at..at + dim], &expected, tolerance(self.float), what);
            }
        }
    }

    /// Slots that were not written are what is no number.
    fn check_cache(&self, step: &Step, given: &[f32], part: usize, what: &str) {
        let dim = self.head_dim;
        let tolerance = match self.dtype {
            KvDtype::Float(float) => tolerance(float),
            KvDtype::Fp8 => 0.07,
            KvDtype::Int8 => 0.005,
        };
        let num_slots = self.shape().num_blocks * BLOCK_SIZE;
        for (slot, head) in
            (0..num_slots).flat_map(|slot| (0..self.heads[1]).map(move |h| (slot, h)))
        {
            let at =
                ((slot / BLOCK_SIZE * self.heads[1] + head) * BLOCK_SIZE + slot % BLOCK_SIZE) * dim;
            let given = &given[at..at + dim];
            let mut tokens = 0..step.slots.len();
            let token = tokens
                .find(|token| step.slots[*token] == slot as u32 && !Self::is_padding(step, *token));
            match token {
                None => assert!(given.iter().all(|x| x.is_nan()), "{slot} was written: {what}"),
                Some(token) => {
                    let head = self.heads[0] + part * self.heads[1] + head;
                    assert_near(given, &self.head(step, token, head), tolerance, what);
                }
            }
        }
    }

    fn read_cache(&self, cache: &KvCache, part: usize) -> Vec<f32> {
        let device = device();
        let layer = cache.layer(1);
        let elements = [layer.keys, layer.values][part];
        match self.dtype {
            KvDtype::Float(float) => values(&device, float, elements),
            KvDtype::Fp8 => {
                let codes: Vec<u8> = device.download(elements).unwrap();
                codes
                    .into_iter()
                    .map(|code| if code & 127 == 127 { f32::NAN } else { fp8(code) as f32 })
                    .collect()
            }
            KvDtype::Int8 => {
                let codes: Vec<i8> = device.download(elements).unwrap();
                let scales = [layer.key_scales, layer.value_scales][part].unwrap();
                let scales: Vec<f32> = device.download(scales).unwrap();
                codes
                    .iter()
                    .enumerate()
                    .map(|(i, x)| f32::from(*x) * scales[i / self.head_dim])
                    .collect()
            }
        }
    }
}

#[test]
fn queries_and_keys_turn_and_go_to_their_slots() {
    for float in FLOATS {
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            // Whole, partial, with odd counts of packs, with halves that are no packs.
            for (head_dim, rotary_dim) in
                [(64, 64), (128, 128), (80, 32), (96, 24), (72, 72), (256, 256), (256, 64), (8, 2)]
            {
                for heads in [[4, 2], [3, 1]] {
                    Case { style, head_dim, rotary_dim, heads, ..Case::new(float) }.check();
                }
            }
        }
    }
}

#[test]
fn biases_and_norms_come_before_the_rotation() {
    for float in FLOATS {
        for (has_bias, has_norms) in [(true, false), (false, true), (true, true)] {
            for (head_dim, rotary_dim) in [(64, 64), (128, 128), (96, 24), (256, 256)] {
                Case { has_bias, has_norms, head_dim, rotary_dim, ..Case::new(float) }.check();
            }
        }
    }
}

#[test]
fn caches_of_eight_bits_round_and_saturate() {
    for float in FLOATS {
        for dtype in [KvDtype::Fp8, KvDtype::Int8] {
            for (head_dim, rotary_dim) in [(64, 64), (128, 128), (96, 24), (72, 72)] {
                Case { dtype, head_dim, rotary_dim, has_bias: true, ..Case::new(float) }.check();
            }
        }
    }
}
