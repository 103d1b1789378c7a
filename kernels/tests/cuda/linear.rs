use std::time::Duration;

use sconce_kernels::cuda::{Linear, Matmul, Tuned, Write};

use super::*;

/// `y + x · wᵀ` of 64-bit floats.
pub(super) fn product(x: &[f32], w: &[f32], y: &[f32], n: usize, k: usize) -> Vec<f64> {
    let rows = x.chunks_exact(k).flat_map(|x| {
        w.chunks_exact(k).map(|w| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum())
    });
    let sums: Vec<f64> = rows.collect();
    assert_eq!(sums.len() % n, 0);
    sums.iter()
        .zip(y.iter().chain(std::iter::repeat(&0.0)))
        .map(|(x, y)| x + f64::from(*y))
        .collect()
}

/// Types of a product's operands and of its output.
const TYPES: [(Float, Float); 5] = [
    (Float::F32, Float::F32),
    (Float::F16, Float::F16),
    (Float::BF16, Float::BF16),
    (Float::F16, Float::F32),
    (Float::BF16, Float::F32),
];

/// One product on the device and the same by reference.
struct Case {
    float: Float,
    y_float: Float,
    x: Vec<f32>,
    w: Vec<f32>,
    before: Vec<f32>,
    n: usize,
    k: usize,
}

impl Case {
    fn new((float, y_float): (Float, Float), (rows, n, k): (usize, usize, usize)) -> Self {
        let mut rng = rng((rows * n + k) as u64);
        let (x, w) = (numbers(&mut rng, rows * k), numbers(&mut rng, n * k));
        let before = numbers(&mut rng, rows * n);
        Self { float, y_float, x, w, before, n, k }
    }

    /// Of the first `rows` tokens.
    fn run(&self, rows: usize, write: Write, multiply: impl FnOnce(Linear<'_>)) -> Vec<f32> {
        let device = device();
        let (n, k) = (self.n, self.k);
        let x = floats(&device, self.float, &self.x[..rows * k]);
        let w = floats(&device, self.float, &self.w);
        let mut y = match write {
            Write::Store => poisoned(&device, self.y_float, rows * n),
            Write::Add => floats(&device, self.y_float, &self.before[..rows * n]),
        };
        multiply(Linear {
            float: self.float,
            x: x.slice(),
            w: w.slice(),
            y: y.slice_mut(),
            y_float: self.y_float,
            write,
            rows,
            n,
            k,
        });
        values(&device, self.y_float, y.slice())
    }

    #[track_caller]
    fn check(&self, given: &[f32], write: Write) {
        let rows = given.len() / self.n;
        let before: &[f32] = if write == Write::Add { &self.before[..given.len()] } else { &[] };
        let expected = product(&self.x[..rows * self.k], &self.w, before, self.n, self.k);
        let what =
            format!("{:?}, {:?}, {rows} x {} x {}", self.float, self.y_float, self.n, self.k);
        assert_near(given, &expected, tolerance(self.y_float), &what);
    }
}

#[test]
fn few_tokens_are_multiplied_as_by_reference_and_each_whatever_the_others() {
    let device = device();
    let shapes = [(1, 8), (16, 64), (17, 72), (40, 520), (3, 1032), (130, 2056)];
    for (types, (n, k)) in TYPES.into_iter().flat_map(|types| shapes.map(|shape| (types, shape))) {
        let case = Case::new(types, (8, n, k));
        let all = case.run(8, Write::Store, |args| device.gemv(args).unwrap());
        case.check(&all, Write::Store);
        for rows in 1..8 {
            let some = case.run(rows, Write::Store, |args| device.gemv(args).unwrap());
            assert_eq!(some, all[..rows * n], "{types:?}, {rows} x {n} x {k}");
        }
        let added = case.run(5, Write::Add, |args| device.gemv(args).unwrap());
        case.check(&added, Write::Add);
    }
}

#[test]
fn any_number_of_tokens_is_multiplied_as_by_reference() {
    let matmul = Matmul::new(&device()).unwrap();
    for types in TYPES {
        for rows in (1..=17).chain([300]) {
            let case = Case::new(types, (rows, 24, 136));
            for write in [Write::Store, Write::Add] {
                let given = case.run(rows, write, |args| matmul.linear(args).unwrap());
                case.check(&given, write);
                let given = case.run(rows, write, |args| matmul.multiply(args).unwrap());
                case.check(&given, write);
            }
        }
    }
}

#[test]
fn a_product_may_be_captured_and_run_again() {
    let device = device();
    let matmul = Matmul::new(&device).unwrap();
    let case = Case::new((Float::BF16, Float::F32), (9, 16, 64));
    let mut graph = None;
    let given = case.run(9, Write::Store, |args| {
        let captured = device.capture(|| matmul.linear(args)).unwrap();
        captured.launch().unwrap();
        device.synchronize().unwrap();
        graph = Some(captured);
    });

    case.check(&given, Write::Store);
}

/// Multiplies once with these algorithms known. How many of them were of use, how many new ones were measured, and
/// what is known then.
fn tuned(case: &Case, known: Tuned, most: Duration) -> ([usize; 2], String) {
    let matmul = Matmul::new(&device()).unwrap();
    matmul.begin_tuning(known, most);
    for _ in 0..2 {
        let given = case.run(12, Write::Store, |args| matmul.multiply(args).unwrap());
        case.check(&given, Write::Store);
    }
    let tuned = matmul.end_tuning().unwrap();
    assert!(matmul.end_tuning().is_none());
    ([tuned.num_found(), tuned.num_timed()], tuned.to_text())
}

#[test]
fn an_algorithm_is_measured_once_and_then_known() {
    let case = Case::new((Float::BF16, Float::BF16), (12, 16, 64));
    let long = Duration::from_secs(1000);

    let (counts, text) = tuned(&case, Tuned::default(), long);
    assert_eq!(counts, [0, 1]);
    let known = Tuned::parse(&text).unwrap();
    assert_eq!(tuned(&case, known, long), ([1, 0], text.clone()));

    // Another shape is another algorithm.
    let other = Case::new((Float::BF16, Float::F32), (12, 16, 64));
    let (counts, both) = tuned(&other, Tuned::parse(&text).unwrap(), long);
    assert_eq!((counts, both.lines().count()), ([0, 1], 3));
}

#[test]
fn what_the_library_does_not_take_is_measured_again() {
    let case = Case::new((Float::BF16, Float::BF16), (12, 16, 64));
    let long = Duration::from_secs(1000);
    let (_, text) = tuned(&case, Tuned::default(), long);
    let (head, _) = text.rsplit_once('\t').unwrap();
    let spoiled = format!("{head}\t{}\n", ["ffffffffffffffff"; 8].join(" "));

    let (counts, again) = tuned(&case, Tuned::parse(&spoiled).unwrap(), long);
    assert_eq!(counts, [0, 1]);
    assert_ne!(again, spoiled);

    let elsewhere = text.replace("driver", "other driver");
    assert_eq!(tuned(&case, Tuned::parse(&elsewhere).unwrap(), long).0, [0, 1]);
}

#[test]
fn without_time_nothing_is_measured() {
    let case = Case::new((Float::BF16, Float::BF16), (12, 16, 64));

    let (counts, text) = tuned(&case, Tuned::default(), Duration::ZERO);

    assert_eq!((counts, text.lines().count()), ([0, 0], 1));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = device();
    let (x, w) =
        (device.alloc_zeroed(9 * 64 * 2).unwrap(), device.alloc_zeroed(4 * 64 * 2).unwrap());
    let mut y = device.alloc_zeroed(9 * 4 * 4).unwrap();
    let mut with = |rows: usize, k, y_float: Float| {
        device.gemv(Linear {
            float: Float::F16,
            x: x.slice().at(0, rows * 64 * 2),
            w: w.slice(),
            y: y.slice_mut().at(0, rows * 4 * y_float.size()),
            y_float,
            write: Write::Store,
            rows,
            n: 4,
            k,
        })
    };

    assert!(with(8, 64, Float::F16).is_ok());
    assert!(with(0, 64, Float::F16).is_ok());
    assert!(with(8, 64, Float::F32).is_ok());
    assert!(with(8, 64, Float::BF16).is_err());
    assert!(with(9, 64, Float::F16).is_err());
    assert!(with(8, 60, Float::F16).is_err());
    assert!(with(8, 32, Float::F16).is_err());
}
