//! Directories whose matrices others quantized: what is refused, and how it is said.

use std::fs;
use std::path::Path;

use sconce::weights::{Checkpoint, Tensor};
use sconce_kernels::cpu::dequantize;
use sconce_kernels::dtype::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::refusal;
use crate::safetensors::{change_json, join, parts};

/// A copy of a quantized reference, to be changed.
fn copy(name: &str) -> TempDir {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/quantized").join(name);
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Changes the configuration of a reference's weights and expects the refusal to say `expected`.
fn refused(name: &str, expected: &str, change: impl FnOnce(&mut Value)) {
    let dir = copy(name);
    change_json(&dir.path().join("config.json"), |config| {
        change(&mut config["quantization_config"]);
    });

    let refusal = refusal(Checkpoint::open(dir.path()));

    assert!(refusal.contains(expected), "{expected}: {refusal}");
}

/// Changes a reference's tensors, header and data, and opens it.
fn changed(name: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> (TempDir, String) {
    let dir = copy(name);
    let path = dir.path().join("model.safetensors");
    let (mut header, mut data) = parts(&fs::read(&path).unwrap());
    change(&mut header, &mut data);
    fs::write(&path, join(&header.to_string(), &data)).unwrap();
    let refusal = match Checkpoint::open(dir.path()) {
        Ok(_) => String::new(),
        Err(error) => refusal(Err(error)),
    };
    (dir, refusal)
}

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj";

/// The bytes of a tensor.
fn range(header: &Value, name: &str) -> std::ops::Range<usize> {
    let offset = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap() as usize;
    offset(0)..offset(1)
}

#[test]
fn methods_and_formats_that_are_not_computed_are_refused_by_name() {
    let set = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value;

    for method in ["bitsandbytes", "hqq", "aqlm", "mxfp4", "quark", "torchao"] {
        refused("awq", method, set("quant_method", json!(method)));
    }
    refused("awq", "gptq, awq (gemm)", set("quant_method", json!("exl2")));
    refused("awq", "gemv", set("version", json!("gemv")));
    refused("awq", "bits", set("bits", json!(8)));
    refused("gptq_4bit", "4, 8", set("bits", json!(3)));
    refused("gptq_4bit", "marlin", set("checkpoint_format", json!("marlin")));
    refused("fp8_blocks", "e5m2", set("fmt", json!("e5m2")));
    refused("fp8_blocks", "weight_block_size", set("weight_block_size", json!([0, 128])));
    let compressed = "compressed_w4a16";
    refused(compressed, "nvfp4-pack-quantized", set("format", json!("nvfp4-pack-quantized")));
    refused(compressed, "sparse-24", set("sparsity_config", json!({ "format": "sparse-24" })));
    refused(compressed, "transform_config", set("transform_config", json!({ "u": {} })));
    refused(compressed, "int of 2 bits", |config| {
        config["config_groups"]["group_0"]["weights"]["num_bits"] = json!(2);
    });
    refused(compressed, "output_activations", |config| {
        config["config_groups"]["group_0"]["output_activations"] = json!({ "num_bits": 8 });
    });
}

#[test]
fn old_files_beside_the_configuration_are_read() {
    let dir = copy("gptq_4bit");
    let path = dir.path().join("config.json");
    let mut quantization = Value::Null;
    change_json(&path, |config| quantization = config["quantization_config"].take());
    let without = refusal(Checkpoint::open(dir.path()));
    fs::write(dir.path().join("quantize_config.json"), quantization.to_string()).unwrap();
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("gptq_model.safetensors"))
        .unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();

    assert!(without.contains("F32, F16, BF16") || without.contains("tensor"), "{without}");
    let tensor = checkpoint.tensor(&format!("{Q_PROJ}.weight")).unwrap();
    assert_eq!((tensor.dtype, tensor.shape), (Dtype::Int4, vec![64, 64]));
    assert!(checkpoint.is_f16());
}

#[test]
fn codes_become_blocks_of_their_own_kind() {
    for (name, dtype) in [
        ("awq", Dtype::Int4),
        ("gptq_4bit_act_order", Dtype::Dequantized),
        ("gptq_8bit", Dtype::Int8),
        ("gptq_8bit_asymmetric", Dtype::Dequantized),
        ("compressed_w8a8_int", Dtype::Int8),
        ("fp8_blocks", Dtype::Dequantized),
    ] {
        let checkpoint = Checkpoint::open(copy(name).path()).unwrap();
        let tensor = checkpoint.tensor(&format!("{Q_PROJ}.weight")).unwrap();

        assert_eq!(tensor.dtype, dtype, "{name}");
        assert_eq!(tensor.data.len(), 64 * 64 / 32 * dtype.block_bytes());
    }
}

#[test]
fn tensors_that_do_not_fit_each_other_are_refused() {
    let rename = |name: &'static str, part: &'static str| {
        changed(name, move |header, _| {
            let tensor = header[format!("{Q_PROJ}.{part}")].take();
            header.as_object_mut().unwrap().remove(&format!("{Q_PROJ}.{part}"));
            header[format!("{Q_PROJ}.other")] = tensor;
        })
        .1
    };
    for (name, part) in [
        ("gptq_4bit", "qzeros"),
        ("awq", "scales"),
        ("compressed_w4a16", "weight_shape"),
        ("fp8_blocks", "weight_scale_inv"),
    ] {
        let refusal = rename(name, part);
        assert!(refusal.contains("no tensor") && refusal.contains(Q_PROJ), "{name}: {refusal}");
    }
    let reshape = |name: &str, part: &str, shape: Value| {
        changed(name, |header, _| header[format!("{Q_PROJ}.{part}")]["shape"] = shape).1
    };
    // As many words, laid out otherwise.
    let refusal = reshape("gptq_4bit", "qweight", json!([64, 8]));
    assert!(refusal.contains(Q_PROJ), "{refusal}");
    let refusal = reshape("awq", "qzeros", json!([8, 2]));
    assert!(refusal.contains(Q_PROJ), "{refusal}");
    let refusal = reshape("compressed_w4a16", "weight_scale", json!([2, 64]));
    assert!(refusal.contains("weight_scale"), "{refusal}");
}

#[test]
fn a_column_of_no_group_is_refused() {
    let (_dir, refusal) = changed("gptq_4bit_act_order", |header, data| {
        let begin = range(header, &format!("{Q_PROJ}.g_idx")).start;
        data[begin..begin + 4].copy_from_slice(&2_u32.to_le_bytes());
    });

    assert!(refusal.contains("group 2, and there are 2"), "{refusal}");
}

#[test]
fn a_bias_is_dropped_only_if_it_is_zero() {
    let (_dir, refusal) = changed("gptq_4bit", |header, data| {
        let begin = range(header, &format!("{Q_PROJ}.bias")).start;
        data[begin + 1] = 60;
    });

    assert!(refusal.contains("q_proj.bias"), "{refusal}");
    assert!(Checkpoint::open(copy("gptq_4bit").path()).is_ok());
}

/// What random weights are is what the programs write: every type and size is that of a real checkpoint with
/// the same configuration.
#[test]
fn random_weights_are_quantized_as_the_configuration_says() {
    for name in [
        "awq",
        "compressed_fp8",
        "compressed_w4a16",
        "compressed_w8a16",
        "compressed_w8a8_int",
        "fp8_blocks",
        "fp8_tensor",
        "gptq_4bit",
        "gptq_8bit",
    ] {
        let dir = copy(name);
        let real = sizes(&Checkpoint::open(dir.path()).unwrap());
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();

        let made = Checkpoint::dummy(dir.path()).unwrap();

        assert_eq!(sizes(&made), real, "{name}");
        let q_proj = made.tensor(&format!("{Q_PROJ}.weight")).unwrap();
        let elements = elements(&q_proj);
        let mean = elements.iter().sum::<f32>() / elements.len() as f32;
        let spread = (elements.iter().map(|x| x * x).sum::<f32>() / elements.len() as f32).sqrt();
        assert!((1e-3..5e-2).contains(&spread), "{name}: {spread}");
        // Four bits with a sign reach further down than up, by one part of fifteen.
        assert!(mean.abs() < 0.2 * spread, "{name}: {mean} beside {spread}");
    }
}

#[test]
fn random_weights_of_a_quantized_configuration_have_no_other_type() {
    let dir = copy("awq");

    let refusal = refusal(Checkpoint::dummy_of(dir.path(), Dtype::Q8_0));

    assert!(refusal.contains("Q8_0"), "{refusal}");
}

/// Numbers of elements, by type.
fn sizes(checkpoint: &Checkpoint) -> Vec<(String, usize)> {
    let of = |(dtype, len)| {
        let is_float = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        (if is_float { "float".to_owned() } else { format!("{dtype:?}") }, len)
    };
    let mut sizes: Vec<_> = checkpoint.sizes().map(of).collect();
    sizes.sort();
    sizes
}

fn elements(tensor: &Tensor) -> Vec<f32> {
    let mut elements = vec![0.0; tensor.shape.iter().product()];
    dequantize(tensor.dtype, &tensor.data, &mut elements);
    elements
}
