//! Slow start: a backend that has come up gets a small share of its weight at first, and the whole of it step by step.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admin::Standing,
    ids::{BackendId, PoolId},
    policy::Mode,
};

/// All of a weight, in percent.
pub const WHOLE: u8 = 100;

/// Each step is another Maglev table.
const MOST_STEPS: u64 = 10;

/// How many steps there may be in a time: none is shorter than a second.
fn steps_in(over: Duration) -> u32 {
    over.as_secs().clamp(1, MOST_STEPS) as u32
}

/// A backend of a pool.
#[derive(Debug, Clone)]
pub struct Member {
    /// The backend's name.
    pub name: Arc<str>,
    /// What counts of it before the policies.
    pub own: Standing,
    /// What counts of it after them.
    pub counted: Standing,
}

/// A slow start that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    since: Instant,
    over: Duration,
    step: u32,
}

impl Start {
    fn new(over: Duration, now: Instant) -> Start {
        Start { since: now, over, step: 0 }
    }

    /// `None` when it is over.
    fn at(self, over: Duration, now: Instant) -> Option<Start> {
        let step_length = over / steps_in(over);
        let step = now.saturating_duration_since(self.since).as_nanos() / step_length.as_nanos().max(1);
        let step = u32::try_from(step).ok().filter(|&step| step < steps_in(over))?;
        Some(Start { since: self.since, over, step })
    }

    /// How much of its weight counts, in percent: what a steady rise has in the middle of the step.
    pub fn share(&self) -> u8 {
        ((2 * self.step + 1) * u32::from(WHOLE) / (2 * steps_in(self.over))) as u8
    }

    /// When the next step is due.
    fn next(&self) -> Instant {
        self.since + self.over / steps_in(self.over) * (self.step + 1)
    }

    /// Time until the whole weight counts.
    pub fn left(&self, now: Instant) -> Duration {
        self.over.saturating_sub(now.saturating_duration_since(self.since))
    }
}

/// What is known of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Since its pool is known: if it is up at the first look, it was up before.
    Unjudged,
    /// It takes no flows.
    Out,
    Starting(Start),
    Whole,
}

/// The slow starts of all pools.
#[derive(Debug, Default)]
pub struct SlowStarts {
    pools: BTreeMap<PoolId, BTreeMap<Arc<str>, Phase>>,
}

impl SlowStarts {
    /// What share of each member's weight counts at `now`, in percent. `over`: how long a start takes in this pool.
    ///
    /// A start begins when a backend that took no flows takes them again, not when it is seen for the first time together with
    /// its pool. There is none while all are needed: in a panic, or when no other one takes flows.
    pub fn follow(
        &mut self,
        pool: &PoolId,
        members: &[Member],
        mode: &Mode,
        over: Option<Duration>,
        now: Instant,
    ) -> Vec<u8> {
        let Some(over) = over else {
            self.pools.remove(pool);
            return vec![WHOLE; members.len()];
        };
        let before = self.pools.remove(pool);
        let phase_before = |name: &Arc<str>| match &before {
            None => Phase::Unjudged,
            Some(phases) => phases.get(name).copied().unwrap_or(Phase::Out),
        };
        let takers = members.iter().filter(|member| member.counted.takes_flows()).count();
        let may_wait = !matches!(mode, Mode::Panic { .. }) && takers > 1;
        let phase = |member: &Member| match phase_before(&member.name) {
            Phase::Unjudged if member.own.health.is_none() => Phase::Unjudged,
            _ if !member.own.takes_flows() => Phase::Out,
            Phase::Out if may_wait && member.counted.takes_flows() => Phase::Starting(Start::new(over, now)),
            Phase::Starting(start) if may_wait && member.counted.takes_flows() => {
                start.at(over, now).map_or(Phase::Whole, Phase::Starting)
            }
            _ => Phase::Whole,
        };
        let phases: Vec<Phase> = members.iter().map(phase).collect();
        let names = members.iter().map(|member| member.name.clone());
        self.pools.insert(pool.clone(), names.zip(phases.iter().copied()).collect());
        let share = |phase: &Phase| match phase {
            Phase::Starting(start) => start.share(),
            _ => WHOLE,
        };
        phases.iter().map(share).collect()
    }

    /// Forgets pools that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&PoolId) -> bool) {
        self.pools.retain(|pool, _| keep(pool));
    }

    /// Those that are under way.
    pub fn under_way(&self) -> impl Iterator<Item = (BackendId, Start)> + '_ {
        self.pools.iter().flat_map(|(pool, phases)| {
            phases.iter().filter_map(|(name, phase)| match phase {
                Phase::Starting(start) => {
                    Some((BackendId { pool: pool.clone(), backend: name.clone() }, *start))
                }
                _ => None,
            })
        })
    }

    /// The one of a backend that is under way.
    pub fn of(&self, id: &BackendId) -> Option<&Start> {
        match self.pools.get(&id.pool)?.get(&id.backend)? {
            Phase::Starting(start) => Some(start),
            _ => None,
        }
    }

    /// Whether a step is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.under_way().any(|(_, start)| start.next() <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{health::Health, ids::Family};

    const UP: Option<Health> = Some(Health::Up);
    const DOWN: Option<Health> = Some(Health::Down);
    const OVER: Option<Duration> = Some(Duration::from_secs(20));

    fn pool() -> PoolId {
        PoolId { service: "web".into(), family: Family::V4 }
    }

    fn member(name: &str, health: Option<Health>, weight: u16) -> Member {
        let standing = Standing { health, weight, drain_ended: false };
        Member { name: name.into(), own: standing, counted: standing }
    }

    /// A pool and its clock.
    struct Pool {
        starts: SlowStarts,
        begin: Instant,
    }

    impl Pool {
        fn new() -> Pool {
            Pool { starts: SlowStarts::default(), begin: Instant::now() }
        }

        fn follow(&mut self, second: u64, mode: &Mode, members: &[Member]) -> Vec<u8> {
            self.starts.follow(&pool(), members, mode, OVER, self.begin + Duration::from_secs(second))
        }

        /// Members `a`, `b`, … of weight 1.
        fn see(&mut self, second: u64, healths: &[Option<Health>]) -> Vec<u8> {
            let names = ["a", "b", "c", "d"];
            let members: Vec<_> =
                names.iter().zip(healths).map(|(name, &health)| member(name, health, 1)).collect();
            self.follow(second, &Mode::Ordinary, &members)
        }
    }

    #[test]
    fn who_comes_up_again_gets_more_step_by_step() {
        let mut pool = Pool::new();
        assert_eq!(pool.see(0, &[UP, UP]), [100, 100]);
        assert_eq!(pool.see(1, &[UP, DOWN]), [100, 100]);
        let shares: Vec<u8> = (10..32).map(|second| pool.see(second, &[UP, UP])[1]).collect();
        let expected =
            [5, 5, 15, 15, 25, 25, 35, 35, 45, 45, 55, 55, 65, 65, 75, 75, 85, 85, 95, 95, 100, 100];
        assert_eq!(shares, expected);
        assert_eq!(pool.starts.under_way().count(), 0);
    }

    #[test]
    fn at_the_daemons_start_everybody_has_his_whole_weight() {
        let mut pool = Pool::new();
        assert_eq!(pool.see(0, &[None, None, UP]), [100; 3]);
        assert_eq!(pool.see(1, &[UP, None, UP]), [100; 3]);
        assert_eq!(pool.see(2, &[UP, UP, UP]), [100; 3]);
        assert_eq!(pool.see(3, &[UP, UP, UP, None])[3], 100, "a new one");
        assert_eq!(pool.see(4, &[UP, UP, UP, UP])[3], 5, "is cold");
        let mut pool = Pool::new();
        pool.see(0, &[None, None]);
        pool.see(1, &[UP, DOWN]);
        assert_eq!(pool.see(2, &[UP, UP]), [100, 5], "it was found down");
    }

    #[test]
    fn who_was_drained_starts_like_who_was_down() {
        let mut pool = Pool::new();
        let mut see = |second, weight| {
            pool.follow(second, &Mode::Ordinary, &[member("a", UP, 1), member("b", UP, weight)])[1]
        };
        assert_eq!([see(0, 7), see(1, 0), see(2, 7), see(12, 7)], [100, 100, 5, 55]);
        assert_eq!([see(13, 9), see(14, 0), see(15, 9)], [55, 100, 5], "another weight is no reason");
    }

    #[test]
    fn who_is_needed_has_his_whole_weight_at_once() {
        let mut pool = Pool::new();
        pool.see(0, &[DOWN, DOWN]);
        assert_eq!(pool.see(1, &[UP, DOWN]), [100, 100], "alone");
        assert_eq!(pool.see(2, &[UP, UP]), [100, 5]);
        assert_eq!(pool.see(3, &[DOWN, UP]), [100, 100], "alone now");
        assert_eq!(pool.see(4, &[UP, UP]), [5, 100]);
        let panic = Mode::Panic { up: 1, of: 2 };
        let members = [member("a", UP, 1), member("b", UP, 1)];
        assert_eq!(pool.follow(5, &panic, &members), [100, 100]);
    }

    #[test]
    fn a_backup_that_is_called_in_was_up_all_the_time() {
        let mut pool = Pool::new();
        let idle = |name| Member { counted: member(name, UP, 0).counted, ..member(name, UP, 1) };
        let mut see = |second, members: &[Member]| pool.follow(second, &Mode::Ordinary, members);
        see(0, &[member("a", UP, 1), idle("b"), idle("c")]);
        let called = [member("a", DOWN, 1), member("b", UP, 1), member("c", UP, 1)];
        assert_eq!(see(1, &called), [100; 3]);
        // The primary is alone among those that count.
        assert_eq!(see(2, &[member("a", UP, 1), idle("b"), idle("c")]), [100; 3]);
    }

    #[test]
    fn another_time_counts_from_now_on() {
        let (mut starts, now) = (SlowStarts::default(), Instant::now());
        let mut see = |second, over: u64, health| {
            let over = (over > 0).then_some(Duration::from_secs(over));
            let members = [member("a", UP, 1), member("b", health, 1)];
            starts.follow(&pool(), &members, &Mode::Ordinary, over, now + Duration::from_secs(second))[1]
        };
        see(0, 20, DOWN);
        assert_eq!([see(1, 20, UP), see(6, 20, UP), see(6, 10, UP), see(6, 0, UP)], [5, 25, 55, 100]);
        assert_eq!(see(7, 20, UP), 100, "it is up already");
    }

    proptest! {
        /// Whatever happens, in any order, everybody who takes flows has a share, and one alone the whole.
        #[test]
        fn shares_grow_and_end(
            over in 1_u64..200,
            looks in prop::collection::vec((1_u64..5_000, prop::collection::vec((0..3_u8, 0..3_u16), 3)), 1..40),
        ) {
            let (mut starts, mut now) = (SlowStarts::default(), Instant::now());
            let over = Duration::from_secs(over);
            let mut tables: BTreeMap<Instant, Vec<u8>> = BTreeMap::new();
            for (later, standings) in looks {
                now += Duration::from_millis(later);
                let members: Vec<Member> = ["a", "b", "c"].iter().zip(standings)
                    .map(|(name, (health, weight))| member(name, [None, UP, DOWN][usize::from(health)], weight))
                    .collect();
                let before: BTreeMap<_, _> = starts.under_way().collect();
                let shares = starts.follow(&pool(), &members, &Mode::Ordinary, Some(over), now);
                let takers = members.iter().filter(|member| member.counted.takes_flows()).count();
                for (member, &share) in members.iter().zip(&shares) {
                    prop_assert!((1..=WHOLE).contains(&share));
                    prop_assert!(takers > 1 || share == WHOLE);
                    let id = BackendId { pool: pool(), backend: member.name.clone() };
                    if let (Some(was), Some(is)) = (before.get(&id), starts.of(&id)) {
                        prop_assert!(was.share() <= is.share() && was.since == is.since);
                    }
                }
                prop_assert!(!starts.is_due(now), "what is due was done");
                for (_, start) in starts.under_way() {
                    prop_assert!(start.left(now) > Duration::ZERO && start.left(now) <= over);
                    prop_assert!(start.next() <= start.since + over);
                    tables.entry(start.since).or_default().push(start.share());
                }
            }
            for mut shares in tables.into_values() {
                shares.dedup();
                prop_assert!(shares.len() <= MOST_STEPS as usize);
            }
        }
    }
}
