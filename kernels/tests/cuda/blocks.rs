use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{BlockTables, KvCache, KvDtype, KvSlices};

use super::*;

/// Fills a layer's part with what tells blocks apart; returns it.
fn fill(device: &Device, part: &mut sconce_kernels::cuda::SliceMut<'_>, seed: u64) -> Vec<u8> {
    let mut rng = rng(seed);
    let bytes: Vec<u8> = (0..part.len()).map(|_| rng.random()).collect();
    device.upload(part, &bytes).unwrap();
    bytes
}

#[test]
fn blocks_are_copied_in_order_in_all_layers() {
    let device = device();
    for (dtype, head_dim) in
        [(KvDtype::Float(Float::BF16), 64), (KvDtype::Int8, 24), (KvDtype::Fp8, 8)]
    {
        let shape =
            KvShape { num_layers: 3, num_blocks: 6, block_size: 48, num_kv_heads: 3, head_dim };
        let mut cache = KvCache::new(&device, shape, dtype).unwrap();
        let mut expected = Vec::new();
        for layer in 0..3 {
            let KvSlices { keys, values, key_scales, value_scales } = cache.layer_mut(layer);
            for mut part in
                [Some(keys), Some(values), key_scales, value_scales].into_iter().flatten()
            {
                expected.push(fill(&device, &mut part, expected.len() as u64));
            }
        }
        // The third copy reads what the first wrote; the fourth names no block; the rest is not counted.
        let copies: [u32; 13] = [4, 0, 1, 2, 3, 1, 2, 6, 0, 5, 5, 0, 4];
        let list = device.buffer_of(&copies).unwrap();

        cache.copy_blocks(&device, list.slice()).unwrap();

        for layer in 0..3 {
            let KvSlices { keys, values, key_scales, value_scales } = cache.layer(layer);
            for part in [Some(keys), Some(values), key_scales, value_scales].into_iter().flatten() {
                let mut bytes = expected.remove(0);
                let block = bytes.len() / 6;
                for [from, to] in [[0, 1], [2, 3], [1, 2]] {
                    bytes.copy_within(from * block..(from + 1) * block, to * block);
                }
                assert_eq!(device.download::<u8>(part).unwrap(), bytes, "{dtype:?} {layer}");
            }
        }
    }
}

#[test]
fn tables_change_where_updates_say() {
    let device = device();
    let mut tables = BlockTables::new(&device, 3, 5).unwrap();
    let mut expected = vec![u32::MAX; 15];
    expected[2] = 7;
    expected[14] = 8;
    // The third and fourth are outside, the last is not counted.
    let updates: [u32; 16] = [4, 0, 2, 7, 2, 4, 8, 3, 0, 9, 1, 5, 9, 0, 0, 1];
    let list = device.buffer_of(&updates).unwrap();

    tables.update(&device, list.slice()).unwrap();

    assert_eq!(device.download::<u32>(tables.slice()).unwrap(), expected);
    let many: Vec<u32> =
        [700].into_iter().chain((0..700).flat_map(|i| [i / 30, i % 30, i])).collect();
    let mut tables = BlockTables::new(&device, 24, 30).unwrap();
    let list = device.buffer_of(&many).unwrap();
    tables.update(&device, list.slice()).unwrap();
    let given = device.download::<u32>(tables.slice()).unwrap();
    assert!(given[..700].iter().copied().eq(0..700));
}

#[test]
fn a_cache_of_impossible_shape_is_refused() {
    let device = device();
    let shape =
        KvShape { num_layers: 1, num_blocks: 2, block_size: 16, num_kv_heads: 1, head_dim: 64 };
    let with = |shape| KvCache::new(&device, shape, KvDtype::Fp8);

    assert!(with(shape).is_ok());
    assert!(with(KvShape { block_size: 24, ..shape }).is_err());
    assert!(with(KvShape { head_dim: 12, ..shape }).is_err());
    assert!(with(KvShape { num_blocks: 1 << 40, ..shape }).is_err());
    assert_eq!(sconce_kernels::cuda::num_bytes(&shape, KvDtype::Int8), Some(2 * 2 * 16 * 68));
}
