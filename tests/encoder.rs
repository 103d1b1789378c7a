//! Random encoders beside candle's, and encoders and decoders beside transformers': the same hidden
//! states, pooled each way, whatever is beside an input in its batch.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use sconce::engine::embed::{EmbedBatch, EmbedInput};
use sconce::engine::sequence::RequestId;
use sconce::runner::Embedder;
use sconce::runner::cpu::RunnerOptions;
use sconce::runner::encoder::EncoderRunner;
use sconce::weights::EncoderCheckpoint;
use serde_json::json;
use tempfile::TempDir;

#[path = "support/tiny_encoder.rs"]
mod tiny_encoder;

#[cfg(test)]
#[path = "encoder/transformers.rs"]
mod transformers;

use tiny_encoder::{HIDDEN, config, write};

fn runner(directory: &TempDir) -> EncoderRunner {
    let checkpoint = EncoderCheckpoint::open(directory.path()).unwrap().unwrap();
    EncoderRunner::load(&checkpoint, &RunnerOptions::default()).unwrap()
}

fn input(len: usize, seed: usize) -> EmbedInput {
    let token = |i: usize| ((i * 37 + seed * 11 + i * i) % 100) as u32;
    let second_start = (seed % 2 == 1).then_some(len / 2);
    EmbedInput { token_ids: (0..len).map(token).collect(), second_start }
}

fn inputs() -> Vec<EmbedInput> {
    [1, 7, 16, 300, 33, 2].into_iter().enumerate().map(|(i, len)| input(len, i)).collect()
}

fn compute(runner: &mut impl Embedder, inputs: &[EmbedInput]) -> Vec<Vec<f32>> {
    let mut batch = EmbedBatch::default();
    for (i, input) in inputs.iter().enumerate() {
        batch.push(RequestId(1), i, input);
    }
    let mut values = Vec::new();
    runner.forward(&batch, &mut values).unwrap();
    values.chunks(runner.num_outputs()).map(<[f32]>::to_vec).collect()
}

/// candle's hidden states of one input, `[num_tokens][hidden]`.
fn candle(directory: &TempDir, input: &EmbedInput) -> Vec<Vec<f32>> {
    let config = std::fs::read_to_string(directory.path().join("config.json")).unwrap();
    let config: Config = serde_json::from_str(&config).unwrap();
    let path = directory.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let vars = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let model = BertModel::load(vars, &config).unwrap();
    let ids = Tensor::new(&input.token_ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let start = input.second_start.unwrap_or(usize::MAX);
    let types: Vec<u32> = (0..input.token_ids.len()).map(|i| u32::from(i >= start)).collect();
    let types = Tensor::new(&types[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    model.forward(&ids, &types, None).unwrap().squeeze(0).unwrap().to_vec2().unwrap()
}

fn assert_close(given: &[f32], expected: &[f32]) {
    assert_eq!(given.len(), expected.len());
    for (given, expected) in given.iter().zip(expected) {
        assert!((given - expected).abs() <= 2e-4 * expected.abs().max(1.0), "{given} {expected}");
    }
}

fn pooling(
    mode: &'static str,
    normalize: bool,
) -> impl FnOnce(&Path, &mut HashMap<String, Tensor>) {
    move |directory, _| {
        let mut modules = vec![
            json!({"idx": 0, "name": "0", "path": "", "type": "a.models.Transformer"}),
            json!({"idx": 1, "name": "1", "path": "1_Pooling", "type": "a.models.Pooling"}),
        ];
        if normalize {
            let module = json!({"idx": 2, "path": "2_Normalize", "type": "a.models.Normalize"});
            modules.push(module);
        }
        std::fs::write(directory.join("modules.json"), json!(modules).to_string()).unwrap();
        std::fs::create_dir(directory.join("1_Pooling")).unwrap();
        let modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"];
        let modes = modes.map(|name| (format!("pooling_mode_{name}"), json!(name == mode)));
        let config: serde_json::Map<_, _> = modes.into_iter().collect();
        let path = directory.join("1_Pooling/config.json");
        std::fs::write(path, json!(config).to_string()).unwrap();
    }
}

#[test]
fn pooled_hidden_states_are_candles() {
    for (mode, normalize) in [("mean_tokens", false), ("cls_token", false), ("max_tokens", true)] {
        let directory = write("BertModel", "", pooling(mode, normalize));
        let mut runner = runner(&directory);

        let vectors = compute(&mut runner, &inputs());

        for (input, vector) in inputs().iter().zip(vectors) {
            let states = candle(&directory, input);
            let column = |i: usize| states.iter().map(move |row| row[i]);
            let pool = |i: usize| match mode {
                "cls_token" => states[0][i],
                "max_tokens" => column(i).fold(f32::NEG_INFINITY, f32::max),
                _ => column(i).sum::<f32>() / states.len() as f32,
            };
            let mut expected: Vec<f32> = (0..HIDDEN).map(pool).collect();
            if normalize {
                let norm = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
                expected.iter_mut().for_each(|x| *x /= norm);
            }
            assert_close(&vector, &expected);
        }
    }
}

#[test]
fn an_input_is_computed_the_same_bit_for_bit_beside_others() {
    let directory = write("BertModel", "", |_, _| {});
    let mut runner = runner(&directory);

    let together = compute(&mut runner, &inputs());

    for (input, vector) in inputs().iter().zip(together) {
        assert_eq!(compute(&mut runner, std::slice::from_ref(input)), [vector]);
    }
}

#[test]
fn a_classifier_reads_the_first_token() {
    let directory = write("BertForSequenceClassification", "bert.", |_, tensors| {
        let random = |shape: &[usize]| Tensor::randn(0_f32, 0.3, shape, &Device::Cpu).unwrap();
        tensors.insert("classifier.weight".to_owned(), random(&[3, HIDDEN]));
        tensors.insert("classifier.bias".to_owned(), random(&[3]));
    });
    let mut runner = runner(&directory);

    let logits = compute(&mut runner, &inputs());

    let path = directory.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let linear = |x: &[f32], name: &str| -> Vec<f32> {
        let weight = tensors[&format!("{name}.weight")].to_vec2::<f32>().unwrap();
        let bias = tensors[&format!("{name}.bias")].to_vec1::<f32>().unwrap();
        let dot = |row: &Vec<f32>| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        weight.iter().zip(bias).map(|(row, bias)| dot(row) + bias).collect()
    };
    for (input, logits) in inputs().iter().zip(logits) {
        let first = candle(&directory, input).remove(0);
        let dense: Vec<f32> =
            linear(&first, "bert.pooler.dense").iter().map(|x| x.tanh()).collect();
        assert_close(&logits, &linear(&dense, "classifier"));
    }
}

#[test]
fn what_would_be_computed_wrongly_is_refused() {
    let refused = |directory: &TempDir| match EncoderCheckpoint::open(directory.path()) {
        Err(error) => error.to_string(),
        Ok(None) => panic!("no encoder"),
        Ok(Some(checkpoint)) => {
            let error = EncoderRunner::load(&checkpoint, &RunnerOptions::default()).err().unwrap();
            std::error::Error::source(&error).map_or(error.to_string(), |source| {
                format!("{error}: {source} {:?}", source.source().map(ToString::to_string))
            })
        }
    };
    let directory = write("BertModel", "", pooling("mean_sqrt_len_tokens", false));
    assert!(refused(&directory).contains("pooling mode"));
    let directory = write("BertModel", "", |_, tensors| {
        let other = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        tensors.insert("encoder.layer.2.bias".to_owned(), other);
    });
    assert!(refused(&directory).contains("encoder.layer.2.bias"));
    let directory = write("BertModel", "", |_, tensors| {
        tensors.remove("encoder.layer.1.output.dense.bias");
    });
    assert!(refused(&directory).contains("encoder.layer.1.output.dense.bias"));
    let directory = write("BertModel", "", |path, _| {
        let mut config = config("BertModel");
        config["hidden_act"] = json!("relu");
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    });
    assert!(refused(&directory).contains("relu"));
    let directory = write("LlamaForCausalLM", "", |_, _| {});
    assert!(EncoderCheckpoint::open(directory.path()).unwrap().is_none());
}
