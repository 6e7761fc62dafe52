//! Which of a pool's backends get new flows, beside weight and health: backups, another service's, and all of them in a
//! panic.

use std::{fmt, sync::Arc};

use super::{admin::Standing, health::Health};

/// A backend as the policies see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// It gets flows only while no other one is up.
    pub is_backup: bool,
    /// What counts of it before the policies.
    pub standing: Standing,
}

/// What decides about a pool's new flows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// Weight and health.
    #[default]
    Ordinary,
    /// Only backups are up.
    Backups,
    /// None is up, so another service's backends stand in.
    Fallback {
        /// The other service.
        service: Arc<str>,
    },
    /// So few are up that all are used, whatever checks find.
    Panic {
        /// Backends that are up.
        up: usize,
        /// Backends with a weight.
        of: usize,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Ordinary => f.write_str("weight and health decide"),
            Mode::Backups => f.write_str("only backups are up, and get the flows"),
            Mode::Fallback { service } => {
                write!(f, "FALLBACK: no backend is up, so those of the service {service} get the flows")
            }
            Mode::Panic { up, of } => {
                write!(f, "PANIC: only {up} of {of} backends are up, so all are used, whatever checks find")
            }
        }
    }
}

/// What counts of each member in the end. `panic_below` is a share in percent of the members with a weight that are no
/// backups; while less of them are up, and all have been checked, all of these count as up. 0: never.
///
/// A panic makes no backup of a service work while a primary is up, and a service whose backups are up needs none. Nor does
/// one with a `fallback`, the name of a service whose backends can take its flows, when it has none left at all.
pub fn apply(members: &[Member], panic_below: u8, fallback: Option<&Arc<str>>) -> (Mode, Vec<Standing>) {
    let able = |member: &&Member| member.standing.weight > 0;
    let primaries = || members.iter().filter(able).filter(|member| !member.is_backup);
    let up = primaries().filter(|member| member.standing.is_up()).count();
    let of = primaries().count();
    let backups = members.iter().filter(able).any(|member| member.is_backup && member.standing.is_up());
    let is_checked = |member: &Member| member.standing.health.is_some();
    let all_checked = primaries().all(is_checked);
    let fallback = fallback.filter(|_| up == 0 && members.iter().filter(able).all(is_checked));
    let mode = match fallback {
        _ if up == 0 && backups => Mode::Backups,
        Some(service) => Mode::Fallback { service: service.clone() },
        None if all_checked && up * 100 < of * usize::from(panic_below) => Mode::Panic { up, of },
        None => Mode::Ordinary,
    };
    let standing = |member: &Member| {
        let Member { is_backup, standing } = *member;
        match mode {
            Mode::Ordinary | Mode::Fallback { .. } | Mode::Panic { .. } if is_backup => {
                Standing { weight: 0, ..standing }
            }
            Mode::Panic { .. } if standing.weight > 0 => Standing { health: Some(Health::Up), ..standing },
            _ => standing,
        }
    };
    let counted = members.iter().map(standing).collect();
    (mode, counted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: Option<Health> = Some(Health::Up);
    const DOWN: Option<Health> = Some(Health::Down);

    fn member(is_backup: bool, health: Option<Health>, weight: u16) -> Member {
        Member { is_backup, standing: Standing { health, weight, drain_ended: false } }
    }

    /// Who gets new flows.
    fn used(members: &[Member], panic_below: u8) -> (Mode, Vec<bool>) {
        let (mode, standing) = apply(members, panic_below, None);
        (mode, standing.iter().map(Standing::takes_flows).collect())
    }

    #[test]
    fn backups_serve_only_while_nobody_else_does() {
        let backup = member(true, UP, 1);
        for (first, second, mode, expected) in [
            (UP, UP, Mode::Ordinary, [true, true, false]),
            (UP, DOWN, Mode::Ordinary, [true, false, false]),
            (DOWN, DOWN, Mode::Backups, [false, false, true]),
            (None, None, Mode::Backups, [false, false, true]),
        ] {
            let members = [member(false, first, 1), member(false, second, 1), backup];
            assert_eq!(used(&members, 0), (mode, expected.to_vec()));
        }
        let drained = [member(false, UP, 0), backup];
        assert_eq!(used(&drained, 0), (Mode::Backups, vec![false, true]));
        let all_down = [member(false, DOWN, 1), member(true, DOWN, 1)];
        assert_eq!(used(&all_down, 0), (Mode::Ordinary, vec![false, false]));
    }

    #[test]
    fn in_a_panic_all_are_used_but_those_that_are_taken_out() {
        let of = |ups: usize, of: usize| -> Vec<Member> {
            (0..of).map(|number| member(false, if number < ups { UP } else { DOWN }, 1)).collect()
        };
        assert_eq!(used(&of(2, 4), 50).0, Mode::Ordinary, "not below");
        assert_eq!(used(&of(1, 4), 50), (Mode::Panic { up: 1, of: 4 }, vec![true; 4]));
        assert_eq!(used(&of(0, 4), 50).0, Mode::Panic { up: 0, of: 4 });
        assert_eq!(used(&of(1, 4), 0).0, Mode::Ordinary, "it is off");
        let mut some = of(1, 4);
        some.push(member(false, DOWN, 0));
        assert_eq!(used(&some, 50), (Mode::Panic { up: 1, of: 4 }, vec![true, true, true, true, false]));
        some[2] = member(false, None, 1);
        assert_eq!(used(&some, 50).0, Mode::Ordinary, "one has not been checked");
        assert_eq!(used(&[], 100).0, Mode::Ordinary);
    }

    #[test]
    fn another_service_stands_in_when_none_is_left() {
        let sorry: Arc<str> = "sorry".into();
        let fallback = Mode::Fallback { service: sorry.clone() };
        let mode = |healths: [Option<Health>; 2], weight, panic_below| {
            let members = [member(false, healths[0], 1), member(true, healths[1], weight)];
            apply(&members, panic_below, Some(&sorry)).0
        };
        assert_eq!(mode([UP, DOWN], 1, 0), Mode::Ordinary);
        assert_eq!(mode([DOWN, UP], 1, 0), Mode::Backups);
        assert_eq!(mode([DOWN, DOWN], 1, 0), fallback);
        assert_eq!(mode([DOWN, UP], 0, 0), fallback, "the backup is drained");
        assert_eq!(mode([DOWN, DOWN], 1, 50), fallback, "rather than what is down");
        for unknown in [[None, DOWN], [DOWN, None], [None, None]] {
            assert_eq!(mode(unknown, 1, 0), Mode::Ordinary, "one has not been checked");
        }
        assert_eq!(apply(&[], 0, Some(&sorry)).0, fallback);
        let drained = [member(false, UP, 0)];
        assert_eq!(apply(&drained, 0, Some(&sorry)), (fallback, vec![drained[0].standing]));
    }

    proptest! {
        #[test]
        fn who_is_up_with_a_weight_and_no_backup_is_always_used(
            members in prop::collection::vec((any::<bool>(), 0..3_u8, 0..3_u16), 0..8),
            panic_below in 0..=100_u8,
        ) {
            let members: Vec<_> = members
                .into_iter()
                .map(|(is_backup, health, weight)| member(is_backup, [None, UP, DOWN][usize::from(health)], weight))
                .collect();
            let (_, used) = used(&members, panic_below);
            for (member, used) in members.iter().zip(used) {
                let Member { is_backup, standing } = *member;
                if !is_backup && standing.takes_flows() {
                    prop_assert!(used);
                }
                prop_assert!(standing.weight > 0 || !used);
            }
        }
    }
}
