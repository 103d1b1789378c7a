use sconce_kernels::cuda::AddRmsNorm;

use super::*;

fn reference(x: &[f32], weight: &[f32], cols: usize, epsilon: f32) -> Vec<f64> {
    let rows = x.chunks_exact(cols).flat_map(|row| {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
        let scale = (mean + f64::from(epsilon)).sqrt().recip();
        row.iter().zip(weight).map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
    });
    rows.collect()
}

#[test]
fn the_norm_equals_its_reference_with_and_without_an_addition() {
    let device = device();
    for (seed, (rows, cols)) in
        [(1, 8), (3, 64), (2, 576), (1, 4096), (5, 8200), (7, 16_384)].into_iter().enumerate()
    {
        for (float, adds) in FLOATS.into_iter().flat_map(|float| [(float, false), (float, true)]) {
            let mut rng = rng(seed as u64);
            let (x, delta) = (numbers(&mut rng, rows * cols), numbers(&mut rng, rows * cols));
            let weight = numbers(&mut rng, cols);
            let mut residual = floats(&device, float, &x);
            let (added, weights) =
                (floats(&device, float, &delta), floats(&device, float, &weight));
            let mut out = poisoned(&device, float, rows * cols);

            device
                .add_rms_norm(AddRmsNorm {
                    float,
                    residual: residual.slice_mut(),
                    delta: adds.then(|| added.slice()),
                    weight: weights.slice(),
                    out: out.slice_mut(),
                    rows,
                    cols,
                    epsilon: 1e-5,
                })
                .unwrap();

            let what = format!("{float:?}, {rows} x {cols}, {adds}");
            let sum: Vec<_> =
                x.iter().zip(&delta).map(|(x, y)| if adds { x + y } else { *x }).collect();
            let residual = values(&device, float, residual.slice());
            let exact: Vec<_> = sum.iter().map(|x| f64::from(*x)).collect();
            assert_near(&residual, &exact, tolerance(float), &what);
            // The norm is of the sum as it was rounded.
            let expected = reference(&residual, &weight, cols, 1e-5);
            assert_near(&values(&device, float, out.slice()), &expected, tolerance(float), &what);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = device();
    let mut residual = device.alloc_zeroed(64 * 4).unwrap();
    let mut out = device.alloc_zeroed(64 * 4).unwrap();
    let weight = device.alloc_zeroed(32 * 4).unwrap();
    let mut with = |rows, cols| {
        device.add_rms_norm(AddRmsNorm {
            float: Float::F32,
            residual: residual.slice_mut(),
            delta: None,
            weight: weight.slice(),
            out: out.slice_mut(),
            rows,
            cols,
            epsilon: 1e-5,
        })
    };

    assert!(with(2, 32).is_ok());
    assert!(with(3, 32).is_err());
    assert!(with(1, 64).is_err());
    assert!(with(2, 30).is_err());
}
