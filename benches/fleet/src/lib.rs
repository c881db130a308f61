//! A fleet of agents in virtual time: what it offers to a SPIRE server, second by second.
//!
//! * [`Scenario`]: what happens to the server and to the agents. [`run`]: one scenario with one kind of agent.
//! * `finial`: an agent by the decisions of the crate `pace`, which the real agent makes by the same code; `spire`: one by
//!   the rules of spire-agent 1.15.3.
//! * `server`: replicas that work at the [`Costs`] that were measured at a real one, and queue what is too much.
//! * [`Tally`]: what was offered in each second. [`Verdict`]: what became of each aim. [`page`]: all of it as HTML.
//!
//! There is one random generator with a seed, and no clock, so the same seed gives the same figures.

mod aims;
mod costs;
mod engine;
mod finial;
mod page;
mod scenario;
mod server;
mod spire;
mod svids;
mod tally;

pub use aims::{Verdict, judge};
pub use costs::Costs;
pub use engine::{Kind, Run, Size, run};
pub use page::{Facts, page};
pub use scenario::{Event, Scenario, Start};
pub use tally::{Load, Tally};
