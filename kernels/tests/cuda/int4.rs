use sconce_kernels::cuda::{
    GatherQuantizedRows, Int4Format, Int4Part, LinearQuantized, Matmul, QuantizedMatrix, Write,
};
use sconce_kernels::dtype::Dtype;

use super::linear::product;
use super::*;

const FORMATS: [Int4Format; 3] = [Int4Format::Awq, Int4Format::Gptq, Int4Format::GptqV2];

/// A matrix's tensors, packed here from codes and zero points the slow way.
struct Packed {
    format: Int4Format,
    qweight: Vec<u8>,
    qzeros: Vec<u8>,
    scales: Vec<u8>,
    g_idx: Vec<u8>,
    elements: Vec<f32>,
    n: usize,
    k: usize,
    group: usize,
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Packed {
    fn new(seed: u64, format: Int4Format, (n, k, group): (usize, usize, usize)) -> Self {
        let mut rng = rng(seed);
        let codes: Vec<u32> = (0..n * k).map(|_| rng.random_range(0..16)).collect();
        let lowest = u32::from(format == Int4Format::Gptq);
        let num_groups = k / group;
        let zeros: Vec<u32> =
            (0..num_groups * n).map(|_| lowest + rng.random_range(0..16)).collect();
        let scales: Vec<f16> =
            (0..num_groups * n).map(|_| f16::from_f32(rng.random_range(0.01..0.1))).collect();
        // AWQ's order of the eight columns of a word.
        let awq = [0, 2, 4, 6, 1, 3, 5, 7];
        let order = |i: usize| if format == Int4Format::Awq { awq[i] } else { i };
        let (mut qweight, mut qzeros) = (vec![0; n * k / 8], vec![0; num_groups * n / 8]);
        for i in 0..8 {
            for (at, word) in qzeros.iter_mut().enumerate() {
                *word |= (zeros[at * 8 + order(i)] - lowest) << (4 * i);
            }
            for (at, word) in qweight.iter_mut().enumerate() {
                let (row, col) = match format {
                    Int4Format::Awq => (at % (n / 8) * 8 + order(i), at / (n / 8)),
                    Int4Format::Gptq | Int4Format::GptqV2 => (at % n, at / n * 8 + i),
                };
                *word |= codes[row * k + col] << (4 * i);
            }
        }
        let elements = (0..n * k).map(|at| {
            let place = at % k / group * n + at / k;
            (codes[at] as f32 - zeros[place] as f32) * scales[place].to_f32()
        });
        let g_idx: Vec<_> = (0..k).map(|col| (col / group) as u32).collect();
        Self {
            format,
            qweight: bytes_of(&qweight),
            qzeros: bytes_of(&qzeros),
            scales: scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
            g_idx: bytes_of(&g_idx),
            elements: elements.collect(),
            n,
            k,
            group,
        }
    }

    fn part(&self) -> Int4Part<'_> {
        Int4Part {
            format: self.format,
            qweight: &self.qweight,
            qzeros: &self.qzeros,
            scales: (Dtype::F16, &self.scales),
            g_idx: (self.format != Int4Format::Awq).then_some(&self.g_idx),
            n: self.n,
            k: self.k,
            group: self.group,
        }
    }
}

#[test]
fn matrices_of_awq_and_gptq_are_read_as_they_were_packed() {
    let device = device();
    for format in FORMATS {
        for shape in [(8, 128, 128), (40, 512, 128), (24, 192, 32)] {
            let packed = Packed::new(1, format, shape);
            let table = QuantizedMatrix::pack_int4(&device, &[packed.part()]).unwrap();
            let indices: Vec<_> = (0..packed.n as u32).collect();
            let ids = device.buffer_of(&indices).unwrap();
            let mut out = poisoned(&device, Float::F32, packed.n * packed.k);

            device
                .gather_quantized_rows(GatherQuantizedRows {
                    table: &table,
                    indices: ids.slice(),
                    float: Float::F32,
                    out: out.slice_mut(),
                })
                .unwrap();

            let expected: Vec<_> = packed.elements.iter().map(|x| f64::from(*x)).collect();
            let given = values(&device, Float::F32, out.slice());
            assert_near(&given, &expected, 1e-3, &format!("{format:?}, {shape:?}"));
        }
    }
}

#[test]
fn stacked_parts_are_multiplied_as_by_reference() {
    let device = device();
    let matmul = Matmul::new(&device).unwrap();
    let parts = [(48, 256, 128), (16, 256, 128), (24, 256, 128)]
        .map(|shape| Packed::new(2, Int4Format::Gptq, shape));
    let w = QuantizedMatrix::pack_int4(&device, &parts.each_ref().map(Packed::part)).unwrap();
    let elements: Vec<_> = parts.iter().flat_map(|part| part.elements.clone()).collect();
    for rows in [1, 7, 30] {
        let x = numbers(&mut rng(3), rows * 256);
        let given = floats(&device, Float::F16, &x);
        let mut y = poisoned(&device, Float::F32, rows * 88);
        let mut scratch = poisoned(&device, Float::F16, 16 * 256);

        matmul
            .linear_quantized(LinearQuantized {
                float: Float::F16,
                x: given.slice(),
                w: &w,
                y: y.slice_mut(),
                y_float: Float::F32,
                write: Write::Store,
                rows,
                scratch: scratch.slice_mut(),
            })
            .unwrap();

        let expected = product(&x, &elements, &[], 88, 256);
        let y = values(&device, Float::F32, y.slice());
        assert_near(&y, &expected, 2e-3, &format!("{rows} tokens"));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = device();
    let packed = Packed::new(4, Int4Format::Gptq, (16, 256, 128));
    let pack = |part: Int4Part<'_>| QuantizedMatrix::pack_int4(&device, &[part]);
    let mut shuffled = packed.g_idx.clone();
    shuffled[0] = 1;

    assert!(pack(packed.part()).is_ok());
    assert!(pack(Int4Part { g_idx: Some(&shuffled), ..packed.part() }).is_err());
    assert!(pack(Int4Part { n: 24, ..packed.part() }).is_err());
    assert!(pack(Int4Part { k: 128, ..packed.part() }).is_err());
    assert!(pack(Int4Part { group: 64, ..packed.part() }).is_err());
    assert!(pack(Int4Part { scales: (Dtype::Q8_0, &packed.scales), ..packed.part() }).is_err());
}
