//! Sampling, against the rules of the processor's sampler as `reference` restates them.

mod adjustments;
mod draws;
mod reference;
mod scores;
mod steps;

use sconce_kernels::cuda::{
    Bias, Draw, Masked, NO_TOKEN, NONE, Sample, SampleRow, Sampling, SliceMut, Stages, TokenCounts,
};

use super::*;

/// Vocabularies: less than a warp, a chunk, a chunk and one, and real ones.
const VOCABS: [usize; 8] = [1, 31, 32, 1000, 2048, 2049, 49_152, 128_256];

/// A row to sample, and all that decides its token.
#[derive(Clone, Debug)]
struct Request {
    logits: Vec<f32>,
    draw: Draw,
    biases: Vec<Bias>,
    masked: Vec<u32>,
    /// Ends of bad words, and the token that each must follow, if one.
    bad: Vec<(u32, Option<u32>)>,
    /// The token before, if the row is to fall back where nothing is left.
    last: Option<u32>,
    allowed: Option<Vec<u32>>,
    /// Repetition, frequency and presence.
    penalties: Option<[f32; 3]>,
    prompt: Vec<u32>,
    completion: Vec<u32>,
    /// Tokens that the completion ends with and that nobody has counted.
    num_drafts: usize,
}

const GREEDY: Draw = Draw {
    temperature: 0.0,
    top_k: None,
    top_p: 1.0,
    typical_p: 1.0,
    min_p: 0.0,
    seed: 7,
    index: 0,
    position: 0,
};
const PLAIN: Draw = Draw { temperature: 1.0, ..GREEDY };

impl Request {
    fn new(logits: Vec<f32>, draw: Draw) -> Self {
        Self {
            logits,
            draw,
            biases: Vec::new(),
            masked: Vec::new(),
            bad: Vec::new(),
            last: None,
            allowed: None,
            penalties: None,
            prompt: Vec::new(),
            completion: Vec::new(),
            num_drafts: 0,
        }
    }

    fn is_adjusted(&self) -> bool {
        let lists = [self.biases.len(), self.masked.len(), self.bad.len()];
        lists.iter().any(|len| *len > 0) || self.allowed.is_some() || self.penalties.is_some()
    }
}

/// What the rows of a batch refer to, on the device.
struct Batch {
    vocab: usize,
    rows: Vec<SampleRow>,
    logits: Buffer,
    biases: Buffer,
    masked: Buffer,
    allowed: Buffer,
    inputs: Buffer,
    counts: TokenCounts,
}

impl Batch {
    fn new(device: &Device, requests: &[Request]) -> Self {
        let vocab = requests[0].logits.len();
        let mut rows = Vec::new();
        let (mut biases, mut masked, mut allowed) = (Vec::new(), Vec::new(), Vec::new());
        let mut inputs = Vec::new();
        let slots = requests.iter().filter(|request| request.penalties.is_some()).count();
        let mut counts = TokenCounts::new(device, slots, vocab).unwrap();
        let mut slot = 0;
        for (i, request) in (0..).zip(requests) {
            let mut row = SampleRow::draw(i, request.draw);
            (row.first_bias, row.num_biases) = (biases.len() as u32, request.biases.len() as u32);
            row.first_masked = masked.len() as u32;
            row.num_ends = request.masked.len() as u32;
            row.num_masked = row.num_ends + request.bad.len() as u32;
            biases.extend_from_slice(&request.biases);
            masked.extend(request.masked.iter().map(|token| Masked::always(*token)));
            let bad = request.bad.iter();
            masked
                .extend(bad.map(|&(token, after)| Masked { token, after: after.unwrap_or(NONE) }));
            if let Some(last) = request.last {
                row.input = inputs.len() as u32;
                row.flags |= SampleRow::FALLS_BACK;
                inputs.push(last);
            }
            if let Some(bits) = &request.allowed {
                row.allowed_row = (allowed.len() / vocab.div_ceil(32)) as u32;
                allowed.extend_from_slice(bits);
            }
            if let Some([repetition, frequency, presence]) = request.penalties {
                row.repetition_penalty = repetition;
                row.frequency_penalty = frequency;
                row.presence_penalty = presence;
                row.counts_slot = slot as u32;
                row.flags |= SampleRow::COUNTED;
                counts.clear(device, slot).unwrap();
                let prompt = device.buffer_of(&request.prompt).unwrap();
                let num_counted = request.completion.len() - request.num_drafts;
                let (counted, drafts) = request.completion.split_at(num_counted);
                let completion = device.buffer_of(counted).unwrap();
                if !drafts.is_empty() {
                    inputs.extend_from_slice(drafts);
                    row.input = inputs.len() as u32 - 1;
                    row.num_uncounted = drafts.len() as u32;
                }
                counts.add_prompt(device, slot, prompt.slice()).unwrap();
                counts.add_completion(device, slot, completion.slice()).unwrap();
                device.synchronize().unwrap();
                slot += 1;
            }
            if request.is_adjusted() {
                row.flags |= SampleRow::ADJUSTED;
            }
            rows.push(row);
        }
        let logits: Vec<f32> = requests.iter().flat_map(|one| one.logits.iter().copied()).collect();
        Self {
            vocab,
            rows,
            logits: device.buffer_of(&logits).unwrap(),
            biases: device.buffer_of(&biases).unwrap(),
            masked: device.buffer_of(&masked).unwrap(),
            allowed: device.buffer_of(&allowed).unwrap(),
            inputs: device.buffer_of(&inputs).unwrap(),
            counts,
        }
    }

    fn sample(&mut self, device: &Device, stages: Stages) -> Vec<u32> {
        let mut sampling = Sampling::new(device, self.rows.len(), self.vocab).unwrap();
        let mut sampled = self.rows.iter().map(|_| 0xabab_abab).collect::<Vec<u32>>();
        let mut out = device.buffer_of(&sampled).unwrap();
        let rows = device.buffer_of(&self.rows).unwrap();
        self.ask(device, &mut sampling, (rows.slice(), out.slice_mut(), stages));
        sampled = device.download(out.slice()).unwrap();
        sampled
    }

    fn ask(
        &mut self,
        device: &Device,
        sampling: &mut Sampling,
        (rows, sampled, stages): (Slice<'_>, SliceMut<'_>, Stages),
    ) {
        let args = Sample {
            rows,
            logits: self.logits.slice(),
            biases: Some(self.biases.slice()),
            masked: Some(self.masked.slice()),
            allowed: Some(self.allowed.slice()),
            inputs: Some(self.inputs.slice()),
            counts: Some(&mut self.counts),
            sampled,
            stages,
        };
        sampling.sample(device, args).unwrap();
    }
}

/// Samples with all stages.
fn sample(device: &Device, requests: &[Request]) -> Vec<u32> {
    Batch::new(device, requests).sample(device, Stages::Typical)
}

/// The tokens are the reference's, one and all.
#[track_caller]
fn assert_sampled(device: &Device, requests: &[Request]) {
    let sampled = sample(device, requests);
    for (i, (request, token)) in requests.iter().zip(sampled).enumerate() {
        let expected = reference::sample(request).unwrap_or(NO_TOKEN);
        let vocab = request.logits.len();
        assert_eq!(token, expected, "row {i}, vocabulary {vocab}, {:?}", request.draw);
    }
}

/// Roughly normal, of the spread of a model's logits.
fn random_logits(rng: &mut StdRng, vocab: usize, spread: f32) -> Vec<f32> {
    let mut uniform = || rng.random_range(-1.0f32..1.0);
    (0..vocab).map(|_| (uniform() + uniform() + uniform()) * spread).collect()
}
