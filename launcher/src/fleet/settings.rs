//! By which rules a fleet is run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::name::ModelId;
use crate::supervisor::Policy;

use super::memory::Memory;

/// 100 %, in the unit of shares: one of ten thousand.
pub const WHOLE: u16 = 10_000;

/// By which rules a fleet is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory that workers may take together, by device. A device that is not named has none.
    pub budget: Memory,
    /// Shares of the budget, of 10,000, that belong to a model: its versions together never take
    /// more, and nobody else takes it. Models without a share have what is left together.
    pub shares: BTreeMap<ModelId, u16>,
    /// Whether a version that is not loaded is loaded when a client asks for it.
    pub autoload: bool,
    /// Whether pinned names (`smollm2@1`) are in lists of models.
    pub list_pinned: bool,
    /// How long a request waits for a replica, at a router, when none is ready.
    pub max_hold: Duration,
    /// How many requests wait so, for each name at each router.
    pub max_held: u32,
    /// How long workers may take.
    pub patience: Patience,
    /// When what died is started again, and when not.
    pub restart: Restart,
    /// How long after it got all traffic a version that fails gives it back by itself.
    pub probation: Duration,
    /// What must hold of a version that is to get traffic, unless the order says otherwise.
    pub limits: Limits,
    /// How many replicas there are.
    pub scaling: Scaling,
    /// Entries of the history that are kept.
    pub max_history: usize,
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a worker to be ready.
    pub start: Duration,
    /// For golden prompts to be answered.
    pub check: Duration,
    /// For routers to connect to a version's workers before it gets traffic.
    pub warm: Duration,
    /// For the requests of a replica that drains.
    pub drain: Duration,
    /// For a router's next report: one that is silent for longer is taken for gone.
    pub router: Duration,
}

/// When what died is started again, and when not.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// How long it waits.
    pub policy: Policy,
    /// A version fails with so many deaths…
    pub max_deaths: u32,
    /// …within this time.
    pub window: Duration,
    /// How long a version that failed is left alone before it is tried again, if there is no
    /// other version to go back to.
    pub retry: Duration,
}

/// What must hold of a version that is to get traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Requests that fail, of 10,000.
    pub max_failures: u16,
    /// Median time to first token as a multiple of the other version's, in hundredths.
    pub max_ttft_ratio: u32,
    /// Requests without which nothing is said for or against it.
    pub min_requests: u32,
}

/// How many replicas a version has.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Over how long times in the queue are looked at.
    pub window: Duration,
    /// A replica is added if one request in ten waits longer than this…
    pub high: Duration,
    /// …and may be taken away if nine in ten wait no longer than this.
    pub low: Duration,
    /// The least time between a change and a replica more.
    pub up_cooldown: Duration,
    /// The least time between a change and a replica less.
    pub down_cooldown: Duration,
    /// A version that may have no replica has none after so long without a request.
    pub idle: Duration,
    /// A version that was used within this time is not unloaded for another.
    pub min_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget: Memory::default(),
            shares: BTreeMap::new(),
            autoload: true,
            list_pinned: false,
            max_hold: Duration::from_secs(30),
            max_held: 1000,
            patience: Patience::default(),
            restart: Restart::default(),
            probation: Duration::from_secs(600),
            limits: Limits::default(),
            scaling: Scaling::default(),
            max_history: 1000,
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(1800),
            check: Duration::from_secs(300),
            warm: Duration::from_secs(30),
            drain: Duration::from_secs(120),
            router: Duration::from_secs(10),
        }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            max_deaths: 3,
            window: Duration::from_secs(60),
            retry: Duration::from_secs(60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_failures: 200, max_ttft_ratio: 200, min_requests: 20 }
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            high: Duration::from_millis(500),
            low: Duration::from_millis(50),
            up_cooldown: Duration::from_secs(20),
            down_cooldown: Duration::from_secs(120),
            idle: Duration::from_secs(600),
            min_idle: Duration::from_secs(5),
        }
    }
}
