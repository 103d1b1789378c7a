//! A made-up machine around a fleet: workers that start slowly, die, hang and fail requests,
//! routers that lag and restart, operators that order at random, and a launcher that is killed at
//! any moment, between any two actions. After every step, what must hold is checked.

mod checks;
mod routers;
mod world;

use std::time::Duration;

use super::*;
use world::World;

/// Ticks of 250 ms.
const NUM_TICKS: u32 = 2400;

/// After so long without faults and orders, all is well.
const NUM_QUIET_TICKS: u32 = 1200;

#[test]
fn whatever_happens_no_request_is_lost_and_every_rollout_ends() {
    // More of them, or the one of a failure: `SCONCE_FLEET_SEEDS=95-95`.
    let seeds = std::env::var("SCONCE_FLEET_SEEDS").unwrap_or_else(|_| "1-40".to_owned());
    let (first, last) = seeds.split_once('-').expect("FIRST-LAST");
    let seeds = first.parse::<u64>().unwrap()..=last.parse().unwrap();
    let mut sum = world::Seen::default();
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..NUM_TICKS {
            world.tick();
        }
        world.calm_down();
        for _ in 0..NUM_QUIET_TICKS {
            world.tick();
        }
        world.check_peace();
        sum.add(&world.seen);
    }
    println!("{sum:?}");
    // What never happened was not tested.
    sum.check();
}

fn settings() -> Settings {
    let secs = Duration::from_secs;
    Settings {
        budget: Memory::on("cpu", 100),
        patience: Patience {
            start: secs(40),
            check: secs(20),
            warm: secs(10),
            drain: secs(20),
            router: secs(4),
        },
        restart: Restart { max_deaths: 3, window: secs(30), retry: secs(20), ..Restart::default() },
        probation: secs(60),
        scaling: Scaling { idle: secs(20), min_idle: secs(2), ..Scaling::default() },
        max_history: 50,
        ..Settings::default()
    }
}
