//! What `sconce plan` and `sconce up` both do before anything is loaded: the worker's flags, and
//! whether the model fits with them.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::Path;

use clap::Args;

use super::Fault;
use crate::plan::{self, Ask, Description, Plan, Sizing};
use crate::store::has_flag;

/// How much a model is to serve at once.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct FitArgs {
    /// Sequences of full length that run at once. What the KV cache holds, unless said otherwise
    #[arg(long, value_name = "COUNT")]
    pub(crate) concurrency: Option<NonZeroU32>,

    /// Most tokens of prompt and completion together. The model's own limit, or what fits into
    /// memory, unless said otherwise
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<NonZeroU32>,
}

/// A model that fits, and the flags that make it.
pub(crate) struct Fitted {
    /// `None`: it takes no memory to speak of.
    pub(crate) plan: Option<Plan>,
    /// What else is known.
    pub(crate) description: Description,
    /// All flags of the worker.
    pub(crate) args: Vec<OsString>,
    /// Memory that there is for all workers, if the system says.
    pub(crate) total_bytes: Option<u64>,
}

/// What is to be fitted.
pub(crate) struct Subject<'a> {
    /// What it is called in errors.
    pub(crate) name: &'a str,
    /// What runs as worker.
    pub(crate) program: &'a Path,
    /// The model.
    pub(crate) path: &'a Path,
    /// Which memory.
    pub(crate) room: Room<'a>,
}

/// Which memory a model may take: a part of what is free and of what other workers have.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    /// What workers take that run, on a device.
    pub(crate) reserved_bytes: &'a (dyn Fn(&str) -> u64 + Sync),
    /// The part of all that, 0 to 1.
    pub(crate) part: f64,
}

impl Room<'_> {
    /// All that is free.
    pub(crate) const ALL: Self = Self { reserved_bytes: &|_| 0, part: 1.0 };

    #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "a part of it, about")]
    #[expect(clippy::cast_possible_truncation, reason = "a part of it, about")]
    fn of(self, total: u64) -> u64 {
        if self.part >= 1.0 { total } else { (total as f64 * self.part) as u64 }
    }
}

impl FitArgs {
    /// Adds what was typed to the worker's flags `given`, for which the same must not be said.
    fn check(self, given: &[OsString]) -> Result<(), Fault> {
        if self.context.is_some() && has_flag("--max-model-len", given) {
            return Err(Fault::Twice("--context", "--max-model-len"));
        }
        if self.concurrency.is_some() && has_flag("--max-num-seqs", given) {
            return Err(Fault::Twice("--concurrency", "--max-num-seqs"));
        }
        Ok(())
    }

    /// What was typed, as flags of the worker: they take the place of a version's defaults.
    fn flags(self) -> Vec<OsString> {
        let context = self.context.map(|it| ["--max-model-len".into(), it.to_string().into()]);
        let seqs = self.concurrency.map(|it| ["--max-num-seqs".into(), it.to_string().into()]);
        context.into_iter().chain(seqs).flatten().collect()
    }
}

/// Fits a model. `defaults` makes flags of a version's defaults, given those that were typed.
pub(crate) async fn fit(
    Subject { name, program, path, room }: Subject<'_>,
    typed: FitArgs,
    given: &[OsString],
    defaults: impl FnOnce(&[OsString]) -> anyhow::Result<Vec<OsString>>,
) -> anyhow::Result<Fitted> {
    let model = name.to_owned();
    typed.check(given)?;
    let said = [given, &typed.flags()].concat();
    let mut args = [defaults(&said)?, given.to_vec()].concat();
    let described = plan::describe(program, path, &args).await;
    let mut description =
        described.map_err(|source| Fault::Describe { model: model.clone(), source })?;
    let Some(needs) = &mut description.needs else {
        args.extend(typed.flags());
        return Ok(Fitted { plan: None, description, args, total_bytes: None });
    };
    let reserved = (room.reserved_bytes)(&description.device);
    let available = needs.available_bytes;
    let total_bytes = available.map(|free| free.saturating_add(reserved));
    needs.available_bytes = total_bytes.map(|total| room.of(total));
    needs.is_shared = room.part < 1.0 || reserved > 0;
    let is_sized = ["--kv-cache-bytes", "--num-blocks"].iter().any(|flag| has_flag(flag, &args));
    let ask = Ask {
        concurrency: typed.concurrency.map(|it| it.get().into()),
        context: typed.context.map(|it| it.get().into()),
        kv_cache: if is_sized { Sizing::Given } else { Sizing::Chosen },
    };
    let plan = plan::plan(needs, ask).map_err(|source| Fault::Misfit { model, source })?;
    args.extend(plan.flags.iter().map(OsString::from));
    Ok(Fitted { plan: Some(plan), description, args, total_bytes })
}
