//! Packs a checkpoint's tensors into an [`Encoder`].

use sconce_kernels::cpu::{Compute, Cpu, PackedMatrix};

use super::config::HeadConfig;
use super::head::{Classifier, Head};
use super::{Encoder, EncoderLayer, Linear, Norm};
use crate::models::load::{Error, of_vocabulary};
use crate::weights::{EncoderCheckpoint, Matrix};

/// Packs the encoder of `checkpoint` on all of `cpu`'s threads.
pub(crate) fn encoder(
    cpu: &Cpu,
    checkpoint: &EncoderCheckpoint,
    compute: Compute,
) -> Result<Encoder, Error> {
    let config = checkpoint.config().clone();
    let source = Source { cpu, checkpoint, compute };
    let words = Source { compute: of_vocabulary(compute), ..source };
    let (hidden, types) = (config.hidden_size, config.type_vocab_size);
    let encoder = Encoder {
        word_embeddings: words
            .matrix("embeddings.word_embeddings.weight", [config.vocab_size, hidden])?,
        position_embeddings: source.floats(
            "embeddings.position_embeddings.weight",
            &[config.max_position_embeddings, hidden],
        )?,
        token_type_embeddings: if checkpoint.has_token_types() {
            source.floats("embeddings.token_type_embeddings.weight", &[types, hidden])?
        } else {
            vec![0.0; types * hidden]
        },
        norm: source.norm("embeddings.LayerNorm", None, hidden)?,
        layers: (0..config.num_hidden_layers)
            .map(|index| source.layer(index))
            .collect::<Result<_, _>>()?,
        head: source.head()?,
        config,
    };
    checkpoint.check_all_read()?;
    Ok(encoder)
}

/// Where weights come from and what they become. Names are without the model's prefix.
#[derive(Clone, Copy)]
struct Source<'a> {
    cpu: &'a Cpu,
    checkpoint: &'a EncoderCheckpoint,
    compute: Compute,
}

impl Source<'_> {
    fn layer(&self, index: usize) -> Result<EncoderLayer, Error> {
        let config = self.checkpoint.config();
        let (hidden, ff) = (config.hidden_size, config.intermediate_size);
        let names = self.checkpoint.layer_names();
        let name = |part: &str| format!("{}.{index}.{part}", names.layers);
        let qkv = names.qkv.map(name);
        let parts = qkv.each_ref().map(|part| format!("{part}.weight"));
        let biases = qkv.iter().map(|part| self.floats(&format!("{part}.bias"), &[hidden]));
        let biases = biases.collect::<Result<Vec<_>, _>>()?;
        let [attention, output] = [names.attention_output, names.output].map(name);
        Ok(EncoderLayer {
            qkv: Linear { weight: self.stack(&parts, [hidden, hidden])?, bias: biases.concat() },
            attention_output: self.matrix(&format!("{attention}.weight"), [hidden, hidden])?,
            attention_norm: self.norm(
                &name(names.attention_norm),
                Some(&format!("{attention}.bias")),
                hidden,
            )?,
            intermediate: self.linear(&name(names.intermediate), [ff, hidden])?,
            output: self.matrix(&format!("{output}.weight"), [hidden, ff])?,
            output_norm: self.norm(
                &name(names.output_norm),
                Some(&format!("{output}.bias")),
                hidden,
            )?,
        })
    }

    fn head(&self) -> Result<Head, Error> {
        let config = self.checkpoint.config();
        match config.head {
            HeadConfig::Embed(pooler) => Ok(Head::Pool(pooler)),
            HeadConfig::Classify { num_labels, activation } => {
                let hidden = config.hidden_size;
                let [dense, output] = self.checkpoint.classifier();
                Ok(Head::Classify(Classifier {
                    dense: self.linear(dense, [hidden, hidden])?,
                    activation,
                    output: self.linear(output, [num_labels, hidden])?,
                }))
            }
        }
    }

    fn linear(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Linear, Error> {
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), [rows, cols])?,
            bias: self.floats(&format!("{name}.bias"), &[rows])?,
        })
    }

    fn norm(&self, name: &str, linear_bias: Option<&str>, hidden: usize) -> Result<Norm, Error> {
        Ok(Norm {
            linear_bias: match linear_bias {
                Some(name) => self.floats(name, &[hidden])?,
                None => vec![0.0; hidden],
            },
            weight: self.floats(&format!("{name}.weight"), &[hidden])?,
            bias: self.floats(&format!("{name}.bias"), &[hidden])?,
        })
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<PackedMatrix, Error> {
        self.stack(&[name.to_owned()], shape)
    }

    /// Stacks tensors of one shape along their rows.
    fn stack(&self, names: &[String], shape: [usize; 2]) -> Result<PackedMatrix, Error> {
        let matrices = names.iter().map(|name| self.checkpoint.matrix(name, shape));
        let matrices: Vec<_> = matrices.collect::<Result<_, _>>()?;
        let parts: Vec<_> = matrices.iter().map(Matrix::part).collect();
        PackedMatrix::pack(self.cpu, &parts, self.compute)
            .map_err(|source| Error::Pack { name: names.join(", "), source })
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.checkpoint.floats(name, shape)?)
    }
}
