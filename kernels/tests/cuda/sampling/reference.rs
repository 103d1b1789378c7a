//! The rules of the processor's sampler, restated plainly: everything is sorted, and summed in 64 bits.

use super::*;

/// What requests add, take and forbid, in this order.
pub(super) fn adjust(request: &Request) -> Vec<f32> {
    let mut logits = request.logits.clone();
    for Bias { token, bias } in &request.biases {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit += bias;
        }
    }
    if let Some([repetition, frequency, presence]) = request.penalties {
        for (token, logit) in (0..).zip(&mut logits) {
            let count = request.completion.iter().filter(|other| **other == token).count();
            if count == 0 && !request.prompt.contains(&token) {
                continue;
            }
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if count > 0 {
                *logit -= frequency * count as f32;
                *logit -= presence;
            }
        }
    }
    for token in &request.masked {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    forbid(request, &mut logits);
    logits
}

/// Bad words and tokens that are not allowed.
fn forbid(request: &Request, logits: &mut [f32]) {
    for (token, after) in &request.bad {
        if let Some(logit) = logits.get_mut(*token as usize)
            && (after.is_none() || *after == request.last)
        {
            *logit = f32::NEG_INFINITY;
        }
    }
    if let Some(bits) = &request.allowed {
        for (token, logit) in logits.iter_mut().enumerate() {
            if bits[token / 32] >> (token % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

pub(super) fn sample(request: &Request) -> Option<u32> {
    let logits = adjust(request);
    let token = if request.draw.temperature > 0.0 {
        draw(&kept(&logits, &request.draw), &request.draw)
    } else {
        argmax(&logits)
    };
    token.or_else(|| {
        request.last?;
        let mut own = request.logits.clone();
        forbid(request, &mut own);
        let mut all = vec![0.0; own.len()];
        forbid(request, &mut all);
        argmax(&own).or_else(|| argmax(&all))
    })
}

fn argmax(logits: &[f32]) -> Option<u32> {
    let max = greatest(logits);
    (max > f32::NEG_INFINITY).then(|| logits.iter().position(|logit| *logit == max).unwrap() as u32)
}

fn greatest(logits: &[f32]) -> f32 {
    logits.iter().fold(f32::NEG_INFINITY, |max, logit| if *logit > max { *logit } else { max })
}

/// Tokens that the filters leave, by id, and their weights.
pub(super) fn kept(logits: &[f32], draw: &Draw) -> Vec<(u32, f32)> {
    let max = greatest(logits).min(f32::MAX);
    let minimum =
        if draw.min_p > 0.0 { max + draw.temperature * draw.min_p.ln() } else { f32::MIN };
    let minimum = minimum.max(f32::MIN);
    let capped = (0..).zip(logits).map(|(id, logit)| (id, *logit));
    let candidates = capped.filter(|(_, logit)| *logit >= minimum);
    let mut tokens: Vec<(u32, f32)> =
        candidates.map(|(id, logit)| (id, logit.min(f32::MAX))).collect();
    // Stable: of equal ones the lower ids come first.
    tokens.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
    tokens.truncate(draw.top_k.map_or(usize::MAX, |k| k.max(1) as usize));
    for (_, logit) in &mut tokens {
        *logit = exp((*logit - max) / draw.temperature);
    }
    if draw.top_p < 1.0 {
        let wanted = f64::from(draw.top_p) * mass(&tokens);
        let mut sum = 0.0;
        let last = tokens.iter().position(|(_, weight)| {
            sum += f64::from(*weight);
            sum >= wanted
        });
        tokens.truncate(last.map_or(usize::MAX, |last| last + 1));
    }
    tokens.sort_by_key(|(id, _)| *id);
    if draw.typical_p < 1.0 { typical(tokens, draw.typical_p) } else { tokens }
}

/// The tokens whose surprise is nearest to the entropy, until they have so much of the mass.
fn typical(mut tokens: Vec<(u32, f32)>, typical_p: f32) -> Vec<(u32, f32)> {
    let total = mass(&tokens);
    let surprise = |weight: f32| total.ln() - f64::from(weight).ln();
    let entropy: f64 = (tokens.iter().filter(|(_, weight)| *weight > 0.0))
        .map(|(_, weight)| f64::from(*weight) / total * surprise(*weight))
        .sum();
    let distance = |weight: f32| (surprise(weight) - entropy).abs() as f32;
    // Stable: of equally typical ones the lower ids come first.
    tokens.sort_by(|a, b| distance(a.1).partial_cmp(&distance(b.1)).unwrap());
    let mut sum = 0.0;
    let last = tokens.iter().position(|(_, weight)| {
        sum += f64::from(*weight);
        sum >= f64::from(typical_p) * total
    });
    tokens.truncate(last.map_or(usize::MAX, |last| last + 1));
    tokens.sort_by_key(|(id, _)| *id);
    tokens
}

fn mass(tokens: &[(u32, f32)]) -> f64 {
    tokens.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

fn draw(tokens: &[(u32, f32)], draw: &Draw) -> Option<u32> {
    let mut left = uniform(draw) * mass(tokens);
    for (id, weight) in tokens {
        left -= f64::from(*weight);
        if left < 0.0 {
            return Some(*id);
        }
    }
    tokens.iter().rev().find(|(_, weight)| *weight > 0.0).map(|(id, _)| *id)
}

/// The processor's exponential, which is exact to its last bits, but not the same in them as others.
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = (clamped - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let coefficients = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let power = coefficients.iter().fold(1.0 / 5040.0, |power, next| power * rest + next);
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x > -87.0 { power * scale } else { 0.0 }
}

/// Philox4x32-10 (Salmon et al., 2011).
pub(super) fn uniform(draw: &Draw) -> f64 {
    let mut counter = [draw.position, draw.index, 0, 0];
    let mut key = [draw.seed as u32, (draw.seed >> 32) as u32];
    for _ in 0..10 {
        let products = [0xd251_1f53 * u64::from(counter[0]), 0xcd9e_8d57 * u64::from(counter[2])];
        let [high, low] = [products.map(|x| (x >> 32) as u32), products.map(|x| x as u32)];
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    let bits = (u64::from(counter[0]) << 32 | u64::from(counter[1])) >> 11;
    bits as f64 / (1u64 << 53) as f64
}
