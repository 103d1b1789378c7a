use sconce_kernels::cpu::{MatrixPart, RouteWeights, dequantize};
use sconce_kernels::cuda::{
    ExpertMatrices, Form, MoeCombine, MoeLinear, MoeRoute, MoeTiling, QuantizedExperts, Write,
};
use sconce_kernels::dtype::Dtype;

use super::quantized::{DTYPES, blocks, tolerance_of};
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
            let tiling = MoeTiling::of_floats(rows * top_k, experts);
            let mut tiles = device.alloc(tiling.num_bytes()).unwrap();
            device.moe_tiles(ids.slice(), &mut tiles.slice_mut(), tiling).unwrap();
            let (given, matrices) = (floats(&device, float, &x), floats(&device, float, &w));
            let mut pairs = poisoned(&device, float, rows * top_k * n);
            device
                .moe_linear(MoeLinear {
                    float,
                    x: given.slice(),
                    pairs_per_x: top_k,
                    w: ExpertMatrices::Floats(matrices.slice()),
                    y: pairs.slice_mut(),
                    tiles: tiles.slice(),
                    tiling,
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

#[test]
fn every_pair_is_in_a_tile_of_its_expert_and_there_is_room_for_all() {
    let device = device();
    for (rows, experts, top_k) in [(1, 128, 8), (8, 5, 5), (9, 8, 2), (40, 3, 3), (700, 512, 4)] {
        let pairs = rows * top_k;
        for tiling in
            [MoeTiling::of_codes(rows, top_k, experts), MoeTiling::of_floats(pairs, experts)]
        {
            for ids in [choices(5, rows, (experts, top_k)), first_experts(rows, top_k)] {
                let on_device = device.buffer_of(&ids).unwrap();
                let mut tiles = poisoned(&device, Float::F32, tiling.num_bytes() / 4);

                device.moe_tiles(on_device.slice(), &mut tiles.slice_mut(), tiling).unwrap();

                let tiles: Vec<u32> = device.download(tiles.slice()).unwrap();
                let width = tiling.width();
                let mut found = Vec::new();
                for tile in tiles.chunks_exact(1 + width) {
                    let listed = tile[1..].iter().filter(|pair| **pair != u32::MAX);
                    found.extend(listed.map(|pair| (*pair, tile[0])));
                }
                found.sort_unstable();
                let expected: Vec<_> = (0..).zip(ids).collect();
                assert_eq!(found, expected, "{rows} tokens, {experts} experts, {tiling:?}");
            }
        }
    }
}

/// Experts of each token, any as likely as any other.
fn choices(seed: u64, rows: usize, (experts, top_k): (usize, usize)) -> Vec<u32> {
    let mut rng = rng(seed);
    let choose = |_| {
        let mut all: Vec<_> = (0..experts as u32).collect();
        for i in 0..top_k {
            let other = rng.random_range(i..experts);
            all.swap(i, other);
        }
        all.truncate(top_k);
        all
    };
    (0..rows).flat_map(choose).collect()
}

/// The same experts for each token.
fn first_experts(rows: usize, top_k: usize) -> Vec<u32> {
    (0..rows * top_k).map(|pair| (pair % top_k) as u32).collect()
}

/// Matrices of random blocks, each of the parts' types and rows, and their elements: `[experts, n, k]`.
fn quantized_experts(
    parts: &[(Dtype, usize)],
    experts: usize,
    k: usize,
) -> (QuantizedExperts, Vec<f32>) {
    let (device, mut rng) = (device(), rng(6));
    let forms: Vec<_> =
        parts.iter().map(|(dtype, rows)| (Form::of(*dtype).unwrap(), *rows)).collect();
    let mut matrices = QuantizedExperts::new(&device, (experts, k), &forms).unwrap();
    let mut all = Vec::new();
    let parts = parts.iter().zip(&forms).cycle();
    for (mut place, ((dtype, rows), (form, _))) in matrices.parts_mut().into_iter().zip(parts) {
        let data = blocks(&mut rng, *dtype, *rows, k);
        let mut elements = vec![0.0; rows * k];
        dequantize(*dtype, &data, &mut elements);
        all.extend(elements);
        let part = MatrixPart { dtype: *dtype, rows: *rows, cols: k, data: &data };
        // In two pieces, as loaders do, over what was there.
        let mut bytes = vec![0xee; place.len()];
        let (first, rest) = bytes.split_at_mut(form.row_bytes(k));
        QuantizedExperts::pack_rows(part, *form, 0, first).unwrap();
        QuantizedExperts::pack_rows(part, *form, 1, rest).unwrap();
        device.upload(&mut place, &bytes).unwrap();
    }
    (matrices, all)
}

/// Products of the pairs with their experts' matrices.
fn multiply(
    w: &QuantizedExperts,
    float: Float,
    x: &[f32],
    (ids, pairs_per_x): (&[u32], usize),
    (tiling, n, k): (MoeTiling, usize, usize),
) -> Vec<f32> {
    let device = device();
    let (x, ids) = (floats(&device, float, x), device.buffer_of(ids).unwrap());
    let mut tiles = poisoned(&device, Float::F32, tiling.num_bytes() / 4);
    device.moe_tiles(ids.slice(), &mut tiles.slice_mut(), tiling).unwrap();
    let mut y = poisoned(&device, float, ids.len() / 4 * n);
    device
        .moe_linear(MoeLinear {
            float,
            x: x.slice(),
            pairs_per_x,
            w: ExpertMatrices::Quantized(w),
            y: y.slice_mut(),
            tiles: tiles.slice(),
            tiling,
            n,
            k,
        })
        .unwrap();
    values(&device, float, y.slice())
}

/// The products of pairs by reference.
fn products(
    elements: &[f32],
    x: &[f32],
    (ids, pairs_per_x): (&[u32], usize),
    (n, k): (usize, usize),
) -> Vec<f64> {
    let of_pair = |(pair, expert): (usize, &u32)| {
        let w = &elements[*expert as usize * n * k..][..n * k];
        linear::product(&x[pair / pairs_per_x * k..][..k], w, &[], n, k)
    };
    ids.iter().enumerate().flat_map(of_pair).collect()
}

const HALVES: [Float; 2] = [Float::F16, Float::BF16];

#[test]
fn quantized_experts_multiply_their_tokens_as_by_reference() {
    for dtype in DTYPES {
        // Parts that share a piece, and parts that do not.
        for (rows, (experts, top_k), n) in [
            (1, (4, 2), [32, 24]),
            (8, (5, 3), [24, 40]),
            (9, (8, 2), [16, 1]),
            (20, (8, 3), [17, 16]),
            (70, (3, 2), [48, 90]),
        ] {
            let (k, n_all) =
                (if rows < 9 { 3 } else { 1 } * dtype.block_len().max(64), n[0] + n[1]);
            let (w, elements) = quantized_experts(&n.map(|n| (dtype, n)), experts, k);
            let tiling = MoeTiling::of_codes(rows, top_k, experts);
            let ids = choices(7, rows, (experts, top_k));
            for pairs_per_x in [top_k, 1] {
                let x = numbers(&mut rng(8), rows * top_k / pairs_per_x * k);
                let expected = products(&elements, &x, (&ids, pairs_per_x), (n_all, k));
                for float in HALVES {
                    let y = multiply(&w, float, &x, (&ids, pairs_per_x), (tiling, n_all, k));

                    let what = format!("{dtype:?}, {float:?}, {tiling:?}, {pairs_per_x}");
                    assert_near(&y, &expected, tolerance_of(float), &what);
                }
            }
        }
    }
}

#[test]
fn parts_of_quantized_experts_may_be_of_different_types() {
    let (experts, top_k, k) = (3, 2, 256);
    let parts = [(Dtype::Q4K, 32), (Dtype::Q6K, 24), (Dtype::Q5K, 16)];
    let (w, elements) = quantized_experts(&parts, experts, k);
    for rows in [2, 30] {
        let (x, ids) = (numbers(&mut rng(9), rows * k), choices(10, rows, (experts, top_k)));
        let tiling = MoeTiling::of_codes(rows, top_k, experts);

        let y = multiply(&w, Float::F16, &x, (&ids, top_k), (tiling, 72, k));

        let expected = products(&elements, &x, (&ids, top_k), (72, k));
        assert_near(&y, &expected, tolerance_of(Float::F16), &format!("{rows} tokens"));
    }
}

#[test]
fn what_a_quantized_expert_makes_of_a_token_does_not_depend_on_the_others() {
    let (experts, top_k, k, n) = (6, 2, 1280, 40);
    for dtype in [Dtype::Q4K, Dtype::Q5K, Dtype::Q6K] {
        let (w, _) = quantized_experts(&[(dtype, n)], experts, k);
        let (x, ids) = (numbers(&mut rng(11), 90 * k), choices(12, 90, (experts, top_k)));
        let first = |rows: usize| {
            let tiling = MoeTiling::of_codes(rows, top_k, experts);
            let ids = (&ids[..rows * top_k], top_k);
            multiply(&w, Float::BF16, &x[..rows * k], ids, (tiling, n, k))
        };

        let (few, many) = (first(8), first(90));

        for rows in 1..8 {
            assert_eq!(first(rows), few[..rows * top_k * n], "{dtype:?}, {rows} tokens");
        }
        for rows in [9, 20, 39] {
            assert_eq!(first(rows), many[..rows * top_k * n], "{dtype:?}, {rows} tokens");
        }
    }
}

#[test]
fn matrices_that_do_not_fit_their_pairs_are_refused() {
    let device = device();
    let (w, _) = quantized_experts(&[(Dtype::Q4_0, 16)], 4, 64);
    let tiling = MoeTiling::of_codes(2, 2, 4);
    let (x, tiles) = (device.alloc(2 * 64 * 4).unwrap(), device.alloc(tiling.num_bytes()).unwrap());
    let mut y = device.alloc(4 * 16 * 4).unwrap();
    let mut linear = |float: Float, k: usize, tiling: MoeTiling| {
        let product = MoeLinear {
            float,
            x: x.slice().at(0, 2 * k * float.size()),
            pairs_per_x: 2,
            w: ExpertMatrices::Quantized(&w),
            y: y.slice_mut().at(0, 4 * 16 * float.size()),
            tiles: tiles.slice(),
            tiling,
            n: 16,
            k,
        };
        device.moe_linear(product)
    };

    assert!(linear(Float::F32, 64, tiling).is_err(), "of 32 bits");
    assert!(linear(Float::F16, 32, tiling).is_err(), "of other columns");
    assert!(linear(Float::F16, 64, MoeTiling::of_codes(2, 2, 5)).is_err(), "of other experts");
}
