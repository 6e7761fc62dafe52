//! The decapsulation of backend hosts, on the host: the table, and what holds for every packet.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::net::IpAddr;

use lb_common::{Verdict, decap::Action};
use proptest::prelude::*;
use usher_tests::decap::{GUE_PORT, HostDecap, Outer, VIP, Wrap, inner, rows, unpack};

#[test]
fn the_library_does_what_the_table_says() {
    let path = HostDecap::new(unpack());
    for row in rows() {
        let (verdict, frame) = path.run(&row.frame);
        assert_eq!(verdict, row.verdict, "{}", row.name);
        if let Some(expected) = row.expected() {
            assert_eq!(frame, expected, "{}", row.name);
        }
    }
}

#[test]
fn what_is_not_configured_is_not_unpacked() {
    let mut ipip_only = unpack();
    ipip_only.settings.gue_port = 0;
    let mut gue_only = unpack();
    gue_only.settings.ipip = 0;
    let (ipip_only, gue_only) = (HostDecap::new(ipip_only), HostDecap::new(gue_only));
    for row in rows().iter().filter(|row| row.verdict.action() == Action::Unpack) {
        let by_ipip = row.verdict == Verdict::Ipip;
        let verdict = |wanted: bool| if wanted { row.verdict } else { Verdict::NotTunnel };
        assert_eq!(ipip_only.run(&row.frame).0, verdict(by_ipip), "{}", row.name);
        assert_eq!(gue_only.run(&row.frame).0, verdict(!by_ipip), "{}", row.name);
    }
    let mut open = unpack();
    open.sources.clear();
    let open = HostDecap::new(open);
    for row in rows().iter().filter(|row| row.verdict == Verdict::NotAllowed) {
        assert_eq!(open.run(&row.frame).0.action(), Action::Unpack, "{}", row.name);
    }
}

/// Every verdict is reached by the table.
#[test]
fn the_table_has_every_verdict() {
    let reached: Vec<Verdict> = rows().iter().map(|row| row.verdict).collect();
    for verdict in Verdict::ALL {
        assert!(reached.contains(verdict), "{verdict:?}");
    }
}

fn outer() -> impl Strategy<Value = Outer> {
    let wrap = prop_oneof![
        Just(Wrap::Ipip),
        (any::<u16>(), any::<bool>()).prop_map(|(port, checksum)| Wrap::Gue(port, GUE_PORT, checksum))
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..1_400);
    // Not-ECT outside, so that the inner packet stays as it is.
    let fields = (0_u8..64, 0..2_usize, payload, prop::option::of(0..4_096_u16), any::<u8>());
    (any::<bool>(), wrap, fields, 0..=10_usize).prop_map(|(v6, wrap, fields, options)| {
        let (dscp, vip, payload, vlan, class) = fields;
        let vip: IpAddr = VIP[vip].parse().unwrap();
        let options = if v6 { vec![] } else { vec![1; options * 4] };
        Outer { vlan, class: dscp << 2, options, ..Outer::new(v6, wrap, inner(vip, class, &payload)) }
    })
}

proptest! {
    #[test]
    fn what_was_wrapped_comes_out(outer in outer()) {
        let (verdict, frame) = HostDecap::new(unpack()).run(&outer.bytes());
        prop_assert_eq!(verdict.action(), Action::Unpack);
        let start = if outer.vlan.is_some() { 18 } else { 14 };
        prop_assert_eq!(&frame[start..], &outer.inner.0[..]);
    }

    #[test]
    fn a_frame_that_is_cut_short_or_mangled_is_handled(
        outer in outer(),
        keep in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let path = HostDecap::new(unpack());
        let whole = outer.bytes();
        let (verdict, frame) = path.run(&whole[..keep.index(whole.len())]);
        // All that is read is the headers; the payload's end is the stack's business.
        prop_assert!(verdict.action() == Action::Unpack || frame == whole[..keep.index(whole.len())]);
        let mut mangled = whole;
        for (place, value) in changes {
            let headers = mangled.len().min(130);
            mangled[place.index(headers)] = value;
        }
        let (verdict, frame) = path.run(&mangled);
        prop_assert!(verdict.action() != Action::Pass || frame == mangled, "{:?}", verdict);
    }
}
