//! Measurements of JWT-SVIDs that are cached.

use std::time::Duration;

use benches::running::Outcome;
use harness::{channel, jwt_svid_on};
use tokio::time::Instant;

use crate::rows::Values;
use crate::world::{QUIET, World};
use crate::{Agent, Bench};

/// A token is fetched on one connection, a thousand times, with the server and without it.
pub(crate) fn cached(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let mut world = World::start(bench, agent, QUIET)?;
    let warm = fetches(&world)?;
    world.lose_server()?;
    let away = fetches(&world)?;
    Ok(vec![("jwt.token50", at(&warm, 50)), ("jwt.token99", at(&warm, 99)), ("jwt.away99", at(&away, 99))])
}

/// The milliseconds of each fetch, ascending.
fn fetches(world: &World<'_>) -> Outcome<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = channel(&world.socket()).await;
        // The first one makes the server sign.
        jwt_svid_on(&channel, &["measured"], "").await?;
        let mut took = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let start = Instant::now();
            jwt_svid_on(&channel, &["measured"], "").await?;
            took.push(start.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        took.sort_by(f64::total_cmp);
        Ok(took)
    })
}

fn at(ascending: &[f64], percent: usize) -> f64 {
    ascending[(ascending.len() * percent / 100).min(ascending.len() - 1)]
}

const COUNT: usize = 1000;
const PAUSE: Duration = Duration::from_millis(2);
