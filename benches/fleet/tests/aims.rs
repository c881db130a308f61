//! The aims at two thousand agents, by what the model counts. Same seed, same figures: nothing here waits.

use std::time::Duration;

use fleet::{Costs, Event, Facts, Kind, Run, Scenario, Size, Tally, judge, page};

const AGENTS: usize = 2000;

fn size() -> Size {
    Size { agents: AGENTS, ..Size::default() }
}

fn scenario(name: &str) -> Scenario {
    Scenario::all().into_iter().find(|scenario| scenario.name == name).expect("a scenario")
}

fn tally(name: &str, kind: Kind) -> Tally {
    fleet::run(&scenario(name), kind, &size(), &Costs::checked_in(), 7).tally
}

/// The mean of each five seconds, since few agents make a rough line.
fn most(tally: &Tally, seconds: std::ops::Range<usize>) -> f64 {
    seconds.step_by(5).map(|from| tally.mean(from..from + 5, |load| load.cpu)).fold(0.0, f64::max)
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let storm = scenario("storm");
    for kind in [Kind::Called, Kind::Uncalled, Kind::Spire] {
        let run =
            |seed| fleet::run(&storm, kind, &Size { agents: 200, ..size() }, &Costs::checked_in(), seed);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

#[test]
fn a_fleet_that_lost_its_servers_comes_back_within_a_minute_and_without_a_rush() {
    for name in ["outage-10m", "outage-1h"] {
        let Scenario { rest, after, .. } = scenario(name);
        for kind in [Kind::Called, Kind::Uncalled] {
            let tally = tally(name, kind);
            let rest = tally.mean(rest.clone(), |load| load.cpu);
            let worst = most(&tally, after.clone()) / rest;
            assert!(worst <= 3.0, "{name}, {kind:?}: {worst}");
            let back = tally.back_within(0.99, AGENTS);
            assert!(back.is_some_and(|back| back <= Duration::from_mins(1)), "{name}, {kind:?}: {back:?}");
        }
    }
}

#[test]
fn a_taint_is_spread_over_half_a_minute() {
    let (tally, start) = (tally("taint", Kind::Called), scenario("taint").after.start);
    let signatures = |seconds| tally.sum(seconds, |load| f64::from(load.signatures));
    let all = signatures(start..start + 40);
    assert!(all >= 10.0 * AGENTS as f64, "{all} of {} SVIDs", 10 * AGENTS);
    let worst = (start..start + 35).step_by(5).map(|from| signatures(from..from + 5)).fold(0.0, f64::max);
    assert!(worst / 5.0 <= 1.5 * all / 35.0, "{worst} of {all}");
}

#[test]
fn a_fleet_at_rest_says_and_lacks_nothing() {
    let (tally, Scenario { after, .. }) = (tally("steady", Kind::Called), scenario("steady"));
    assert_eq!(tally.sum(0..tally.loads.len(), |load| f64::from(load.errors)), 0.0);
    let syncs = tally.mean(after, |load| f64::from(load.syncs));
    assert!((syncs / (AGENTS as f64 / 5.0) - 1.0).abs() < 0.02, "{syncs} syncs a second");
}

#[test]
fn an_agent_asks_a_server_that_is_away_less_often_than_at_rest() {
    let Scenario { rest, after, .. } = scenario("outage-1h");
    let tally = tally("outage-1h", Kind::Called);
    let rest = tally.mean(rest, |load| f64::from(load.syncs));
    // In the last half of the hour: every SVID of every agent is old by then.
    let away = tally.mean(after.start - 1800..after.start, |load| f64::from(load.connections));
    assert!(away < rest / 2.0, "{away} connections a second, {rest} syncs at rest");
}

#[test]
fn an_overloaded_server_is_left_alone() {
    let Scenario { events, .. } = scenario("storm");
    let seconds = |event: usize| usize::try_from(events[event].0.as_secs()).expect("seconds");
    assert!(matches!(events[0].1, Event::Capacity(part) if part < 1.0));
    let storm = seconds(0) + 60..seconds(1);
    let refused = |kind| tally("storm", kind).sum(storm.clone(), |load| f64::from(load.refusals));
    let calls = tally("storm", Kind::Called).sum(storm.clone(), |load| f64::from(load.syncs));
    assert!(calls < (AGENTS / 5 * storm.len()) as f64 * 0.7, "{calls} syncs");
    assert!(refused(Kind::Called) <= 2.0 * refused(Kind::Spire), "{}", refused(Kind::Called));
}

#[test]
fn the_page_is_complete_and_needs_nothing_from_elsewhere() {
    let (size, costs, steady) = (Size { agents: 100, ..size() }, Costs::checked_in(), Scenario::steady());
    let runs: Vec<Run> =
        [Kind::Called, Kind::Spire].map(|kind| fleet::run(&steady, kind, &size, &costs, 1)).to_vec();
    let all = [(steady, runs)];
    let verdicts = judge(&all, &size, &costs);
    assert_eq!(
        verdicts.iter().filter(|verdict| verdict.met.is_none()).count(),
        3,
        "two scenarios were not run"
    );
    let page = page(&Facts { size: &size, costs: &costs, seed: 1 }, &all, &verdicts);
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    for part in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "NaN", "inf"] {
        assert!(!page.contains(part), "{part}");
    }
}
