use sconce_kernels::cuda::{Gate, GateMul};

use super::*;

/// By its power series, which converges fast enough between -4 and 4.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn reference(gate: Gate, x: f64) -> f64 {
    match gate {
        Gate::Silu => x / (1.0 + (-x).exp()),
        Gate::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Gate::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

#[test]
fn gated_activations_equal_their_references() {
    let device = device();
    for (float, (rows, cols)) in
        FLOATS.into_iter().flat_map(|float| [(1, 8), (3, 344), (5, 1536)].map(|at| (float, at)))
    {
        for gate in [Gate::Silu, Gate::GeluTanh, Gate::GeluErf] {
            let mut x = numbers(&mut rng(2), 2 * rows * cols);
            x.iter_mut().for_each(|x| *x *= 4.0);
            let gate_up = floats(&device, float, &x);
            let mut out = poisoned(&device, float, rows * cols);

            let (gate_up, to) = (gate_up.slice(), out.slice_mut());
            device.gate_mul(GateMul { float, gate, gate_up, out: to, rows, cols }).unwrap();

            let expected = x.chunks_exact(2 * cols).flat_map(|row| {
                let (gates, factors) = row.split_at(cols);
                let pairs = gates.iter().zip(factors);
                pairs.map(|(x, y)| reference(gate, f64::from(*x)) * f64::from(*y))
            });
            let what = format!("{float:?}, {gate:?}, {rows} x {cols}");
            let given = values(&device, float, out.slice());
            assert_near(&given, &expected.collect::<Vec<_>>(), tolerance(float), &what);
        }
    }
}

#[test]
fn silu_of_large_gates_is_finite() {
    let device = device();
    let gate_up = floats(&device, Float::F32, &[-1e4, 1e4, -90.0, 90.0, 1.0, 1.0, 1.0, 1.0]);
    let mut out = poisoned(&device, Float::F32, 4);

    let (float, gate) = (Float::F32, Gate::Silu);
    let (from, to) = (gate_up.slice(), out.slice_mut());
    device.gate_mul(GateMul { float, gate, gate_up: from, out: to, rows: 1, cols: 4 }).unwrap();

    let given = values(&device, float, out.slice());
    assert_near(&given, &[0.0, 1e4, 0.0, 90.0], 1e-6, "silu");
}

#[test]
fn a_bias_is_added_to_every_row() {
    let device = device();
    for float in FLOATS {
        let (rows, cols) = (5, 72);
        let (x, bias) = (numbers(&mut rng(3), rows * cols), numbers(&mut rng(4), cols));
        let mut sum = floats(&device, float, &x);
        let added = floats(&device, float, &bias);

        device.add_bias(float, &mut sum.slice_mut(), added.slice()).unwrap();

        let expected: Vec<_> =
            x.iter().zip(bias.iter().cycle()).map(|(x, y)| f64::from(x + y)).collect();
        let given = values(&device, float, sum.slice());
        assert_near(&given, &expected, tolerance(float), &format!("{float:?}"));
    }
}

#[test]
fn floats_are_converted_whatever_their_number() {
    let device = device();
    for (from, to) in FLOATS.into_iter().flat_map(|from| FLOATS.map(|to| (from, to))) {
        for len in [1, 8, 13, 4096 + 3] {
            let x = numbers(&mut rng(5), len);
            let (given, mut out) = (floats(&device, from, &x), poisoned(&device, to, len + 1));

            let part = out.slice_mut().at(0, len * to.size());
            device.convert((from, given.slice()), (to, part)).unwrap();

            let out = values(&device, to, out.slice());
            assert_eq!(out[..len], x, "{from:?} to {to:?}");
            assert!(out[len].is_nan(), "what follows is left alone");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = device();
    let gate_up = device.alloc_zeroed(2 * 32 * 4).unwrap();
    let mut out = device.alloc_zeroed(32 * 4).unwrap();
    let float = Float::F32;
    let mut with = |rows, cols| {
        let (gate_up, out) = (gate_up.slice(), out.slice_mut());
        device.gate_mul(GateMul { float, gate: Gate::Silu, gate_up, out, rows, cols })
    };

    assert!(with(2, 16).is_ok());
    assert!(with(1, 16).is_err());
    assert!(with(32, 1).is_err());
    assert!(device.add_bias(float, &mut out.slice_mut(), gate_up.slice()).is_err());
    assert!(device.convert((float, gate_up.slice()), (Float::F16, out.slice_mut())).is_ok());
    assert!(device.convert((float, gate_up.slice()), (float, out.slice_mut())).is_err());
}

#[test]
fn elements_are_scaled_and_capped() {
    let device = device();
    for float in FLOATS {
        for len in [16, 5000 * 16] {
            let x = numbers(&mut rng(5), len);
            let mut given = floats(&device, float, &x);

            device.scale(float, &mut given.slice_mut(), 7.5).unwrap();

            let expected: Vec<_> = x.iter().map(|x| 7.5 * f64::from(*x)).collect();
            let given = values(&device, float, given.slice());
            assert_near(&given, &expected, tolerance(float), &format!("{float:?}, {len}"));
        }
    }
    let mut x: Vec<_> = numbers(&mut rng(6), 700).into_iter().map(|x| 40.0 * x).collect();
    x[..2].copy_from_slice(&[1e30, -1e30]);
    let mut given = floats(&device, Float::F32, &x);

    device.soft_cap(&mut given.slice_mut(), 30.0).unwrap();

    let expected: Vec<_> = x.iter().map(|x| 30.0 * (f64::from(*x) / 30.0).tanh()).collect();
    assert_near(&values(&device, Float::F32, given.slice()), &expected, 1e-5, "a cap of 30");
}
