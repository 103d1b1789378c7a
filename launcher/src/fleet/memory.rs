//! Memory by device, and who may take how much of it.

use std::collections::BTreeMap;
use std::fmt;

use indicatif::BinaryBytes;
use serde::{Deserialize, Serialize};

use crate::name::ModelId;

use super::settings::{Settings, WHOLE};

/// Bytes by device (`cpu`, `cuda:0`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(BTreeMap<String, u64>);

/// Why something does not fit: the device that is too small, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The device.
    pub device: String,
    /// Bytes that are needed.
    pub needed: u64,
    /// Bytes that can be had.
    pub free: u64,
    /// Bytes that the model, or all models without a share together, may take.
    pub limit: u64,
}

/// Whose limit it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purse {
    /// A model that has a share of its own.
    Of(ModelId),
    /// All that have none.
    Common,
}

impl Memory {
    /// `bytes` on one device.
    pub fn on(device: impl Into<String>, bytes: u64) -> Self {
        Self(BTreeMap::from([(device.into(), bytes)]))
    }

    /// Also so much on another device.
    #[must_use]
    pub fn and(mut self, device: impl Into<String>, bytes: u64) -> Self {
        self.0.insert(device.into(), bytes);
        self
    }

    /// Bytes on a device.
    pub fn bytes(&self, device: &str) -> u64 {
        self.0.get(device).copied().unwrap_or(0)
    }

    /// Bytes by device.
    pub fn devices(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(device, bytes)| (device.as_str(), *bytes))
    }

    /// As `other` has it, of devices that are not named here.
    pub(crate) fn add_devices(&mut self, other: &Self) {
        for (device, bytes) in &other.0 {
            self.0.entry(device.clone()).or_insert(*bytes);
        }
    }

    /// On all devices together.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (device, bytes) in &other.0 {
            let mine = self.0.entry(device.clone()).or_default();
            *mine = mine.saturating_add(*bytes);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        for (device, mine) in &mut self.0 {
            *mine = mine.saturating_sub(other.bytes(device));
        }
    }

    /// Whether `self` is there beside `used` within `limit`.
    pub(crate) fn check(&self, used: &Self, limit: &Self) -> Result<(), Shortage> {
        for (device, needed) in &self.0 {
            let limit = limit.bytes(device);
            let free = limit.saturating_sub(used.bytes(device));
            if *needed > free {
                return Err(Shortage { device: device.clone(), needed: *needed, free, limit });
            }
        }
        Ok(())
    }

    fn share(&self, share: u16) -> Self {
        let part = |bytes: u64| {
            let part = u128::from(bytes) * u128::from(share) / u128::from(WHOLE);
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        Self(self.0.iter().map(|(device, bytes)| (device.clone(), part(*bytes))).collect())
    }
}

impl Settings {
    pub(crate) fn purse(&self, model: &ModelId) -> Purse {
        if self.shares.contains_key(model) { Purse::Of(model.clone()) } else { Purse::Common }
    }

    pub(crate) fn limit(&self, purse: &Purse) -> Memory {
        let share = match purse {
            Purse::Of(model) => self.shares.get(model).copied().unwrap_or(0),
            Purse::Common => {
                let given = self.shares.values().fold(0, |sum: u16, s| sum.saturating_add(*s));
                WHOLE.saturating_sub(given)
            }
        };
        self.budget.share(share)
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, needed, free, limit } = self;
        write!(
            f,
            "needs {} of {device} memory, and {} of {} are free",
            BinaryBytes(*needed),
            BinaryBytes(*free),
            BinaryBytes(*limit)
        )
    }
}
