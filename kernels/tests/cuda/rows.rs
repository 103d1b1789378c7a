use sconce_kernels::cuda::GatherRows;

use super::*;

#[test]
fn rows_are_gathered_and_an_index_past_the_table_gives_zeros() {
    let device = device();
    for (float, cols) in FLOATS.into_iter().flat_map(|float| [(float, 8), (float, 1032)]) {
        let table: Vec<_> = numbers(&mut rng(1), 7 * cols);
        let indices = [3_u32, 0, 6, 7, 3, u32::MAX];
        let (rows, ids) = (floats(&device, float, &table), device.buffer_of(&indices).unwrap());
        let mut out = poisoned(&device, float, indices.len() * cols);

        device
            .gather_rows(GatherRows {
                float,
                table: rows.slice(),
                indices: ids.slice(),
                out: out.slice_mut(),
                cols,
            })
            .unwrap();

        let expected = indices.iter().flat_map(|index| {
            let row = table.chunks_exact(cols).nth(*index as usize);
            row.map_or(vec![0.0; cols], <[f32]>::to_vec)
        });
        assert_eq!(values(&device, float, out.slice()), expected.collect::<Vec<_>>(), "{float:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = device();
    let table = device.alloc_zeroed(4 * 64).unwrap();
    let indices = device.alloc_zeroed(8).unwrap();
    let mut out = device.alloc_zeroed(2 * 64).unwrap();
    let mut with = |cols, num: usize| {
        device.gather_rows(GatherRows {
            float: Float::F32,
            table: table.slice(),
            indices: indices.slice().at(0, num * 4),
            out: out.slice_mut(),
            cols,
        })
    };

    assert!(with(16, 2).is_ok());
    assert!(with(16, 1).is_err());
    assert!(with(12, 2).is_err());
    assert!(with(18, 2).is_err());
}
