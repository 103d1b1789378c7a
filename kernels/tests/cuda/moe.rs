use sconce_kernels::cpu::RouteWeights;
use sconce_kernels::cuda::{MoeCombine, MoeLinear, MoeRoute, Write, moe_tiles_bytes};

use super::*;

/// Experts and weights of each row, by reference.
fn routed(logits: &[f32], experts: usize, top_k: usize, sum: RouteWeights) -> Vec<(u32, f64)> {
    let rows = logits.chunks_exact(experts).flat_map(|row| {
        let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let likely: Vec<_> = row.iter().map(|x| f64::from(x - greatest).exp()).collect();
        let mut order: Vec<_> = (0..experts).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        order.truncate(top_k);
        let total: f64 = match sum {
            RouteWeights::OfAll => likely.iter().sum(),
            RouteWeights::OfChosen => order.iter().map(|expert| likely[*expert]).sum(),
        };
        order.into_iter().map(move |expert| (expert as u32, likely[expert] / total))
    });
    rows.collect()
}

/// Routes on the device: the experts' numbers and weights.
fn route(
    float: Float,
    logits: &[f32],
    (experts, top_k): (usize, usize),
    sum: RouteWeights,
) -> (Buffer, Buffer) {
    let device = device();
    let rows = logits.len() / experts;
    let logits = floats(&device, float, logits);
    let mut ids = poisoned(&device, Float::F32, rows * top_k);
    let mut weights = poisoned(&device, Float::F32, rows * top_k);
    device
        .moe_route(MoeRoute {
            float,
            logits: logits.slice(),
            ids: ids.slice_mut(),
            weights: weights.slice_mut(),
            rows,
            experts,
            top_k,
            sum,
        })
        .unwrap();
    (ids, weights)
}

#[test]
fn the_likeliest_experts_are_chosen_and_of_equals_the_first() {
    let device = device();
    for (rows, experts, top_k) in [(1, 1, 1), (9, 8, 2), (5, 60, 4), (17, 128, 8), (3, 512, 32)] {
        for sum in [RouteWeights::OfAll, RouteWeights::OfChosen] {
            for float in FLOATS {
                // Of so few values, many are equal.
                let mut logits = numbers(&mut rng(1), rows * experts);
                logits.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 4.0);

                let (ids, weights) = route(float, &logits, (experts, top_k), sum);

                let what = format!("{float:?}, {rows} x {experts}, {top_k}, {sum:?}");
                let expected = routed(&logits, experts, top_k, sum);
                let given: Vec<u32> = device.download(ids.slice()).unwrap();
                assert_eq!(given, expected.iter().map(|pair| pair.0).collect::<Vec<_>>(), "{what}");
                let expected: Vec<_> = expected.iter().map(|pair| pair.1).collect();
                let given = values(&device, Float::F32, weights.slice());
                assert_near(&given, &expected, 1e-5, &what);
            }
        }
    }
}

#[test]
fn logits_that_are_no_numbers_still_choose_experts_that_there_are() {
    let device = device();
    let logits = [f32::NAN, f32::NAN, f32::NAN, 0.0, f32::NAN, 1.0];

    let (ids, _) = route(Float::F32, &logits, (3, 2), RouteWeights::OfAll);

    let given: Vec<u32> = device.download(ids.slice()).unwrap();
    assert_eq!(given, [0, 1, 2, 0]);
}

#[test]
fn experts_multiply_their_tokens_and_the_results_are_added() {
    let device = device();
    for (rows, experts, top_k, n, k) in
        [(1, 4, 2, 24, 72), (40, 5, 3, 40, 264), (33, 64, 4, 16, 1032)]
    {
        for float in FLOATS {
            let mut rng = rng(2);
            let logits = numbers(&mut rng, rows * experts);
            let (x, w) = (numbers(&mut rng, rows * k), numbers(&mut rng, experts * n * k));
            let before = numbers(&mut rng, rows * n);
            let (ids, weights) = route(float, &logits, (experts, top_k), RouteWeights::OfChosen);
            let mut tiles = device.alloc(moe_tiles_bytes(rows * top_k, experts)).unwrap();
            device.moe_tiles(ids.slice(), &mut tiles.slice_mut(), experts).unwrap();
            let (given, matrices) = (floats(&device, float, &x), floats(&device, float, &w));
            let mut pairs = poisoned(&device, float, rows * top_k * n);
            device
                .moe_linear(MoeLinear {
                    float,
                    x: given.slice(),
                    pairs_per_x: top_k,
                    w: matrices.slice(),
                    y: pairs.slice_mut(),
                    tiles: tiles.slice(),
                    n,
                    k,
                })
                .unwrap();
            let mut out = floats(&device, float, &before);
            device
                .moe_combine(MoeCombine {
                    float,
                    pairs: pairs.slice(),
                    weights: weights.slice(),
                    out: out.slice_mut(),
                    write: Write::Add,
                    rows,
                    cols: n,
                    top_k,
                })
                .unwrap();

            let what = format!("{float:?}, {rows} tokens, {experts} experts, {n} x {k}");
            let routed = routed(&logits, experts, top_k, RouteWeights::OfChosen);
            let mut products = Vec::new();
            for (pair, (expert, _)) in routed.iter().enumerate() {
                let (token, w) = (pair / top_k, &w[*expert as usize * n * k..][..n * k]);
                products.extend(linear::product(&x[token * k..][..k], w, &[], n, k));
            }
            let given = values(&device, float, pairs.slice());
            assert_near(&given, &products, tolerance(float), &what);
            let sums: Vec<_> = (0..rows * n)
                .map(|at| {
                    let (row, col) = (at / n, at % n);
                    let pairs = (row * top_k..(row + 1) * top_k)
                        .map(|pair| routed[pair].1 * products[pair * n + col]);
                    f64::from(before[at]) + pairs.sum::<f64>()
                })
                .collect();
            let given = values(&device, float, out.slice());
            assert_near(&given, &sums, tolerance(float), &what);
        }
    }
}
