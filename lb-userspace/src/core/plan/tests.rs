use std::path::Path;

use super::*;
use crate::core::health::Health;

const FILE: &str = r#"
version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11", "192.0.2.12", "2001:db8:1::11"]
[nat]
source = ["203.0.113.11", "2001:db8:2::11"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
[[service.backend]]
name = "b1"
address = ["203.0.113.21", "2001:db8:2::21"]
port = 8080
[[service.backend]]
name = "b2"
address = "203.0.113.22"
weight = 3
[[service]]
name = "echo"
protocol = "udp"
port = 7
addresses = ["192.0.2.11"]
forward = "dsr-l2"
check = { kind = "tcp", port = 80 }
[[service.backend]]
name = "b1"
address = "203.0.113.21"
"#;

fn config() -> Config {
    Config::parse(FILE, Path::new("usher.toml")).unwrap()
}

fn planner(config: &Config) -> Planner {
    Planner::new(
        Numbers::new(config).expect("room"),
        HashKey { first: [1; 7], second: [2; 7] },
        1,
        Tables::of_config(config),
    )
}

fn image(planner: &mut Planner, config: &Config, up: &[&str]) -> Image {
    image_through(planner, config, up, None)
}

fn image_through(planner: &mut Planner, config: &Config, up: &[&str], gateway: Option<&str>) -> Image {
    image_at(planner, config, up, gateway, Instant::now())
}

fn image_at(
    planner: &mut Planner,
    config: &Config,
    up: &[&str],
    gateway: Option<&str>,
    now: Instant,
) -> Image {
    let standing = |id: &BackendId, weight| {
        let up = up.contains(&id.to_string().as_str());
        Standing { health: Some(if up { Health::Up } else { Health::Down }), weight, drain_ended: false }
    };
    let hop = Hop::new(3, [2; 6], [4; 6]);
    let gateway = gateway.map(|gateway| gateway.parse().unwrap());
    let hops = BTreeMap::from([("203.0.113.21".parse().unwrap(), KnownHop { hop, gateway, mtu: 1_400 })]);
    planner.image(config, &Situation { standing: &standing, hops: &hops, mtu: 1_500, now })
}

/// Backend numbers and how many slots each has.
fn shares(table: &Slots) -> BTreeMap<u16, usize> {
    table.shares().iter().map(|&(backend, slots)| (backend, slots as usize)).collect()
}

#[test]
fn every_vip_of_a_family_leads_to_the_familys_table() {
    let config = config();
    let image = image(&mut planner(&config), &config, &[]);
    let service = |vip: &str, port, protocol| {
        let address = vip.parse::<IpAddr>().unwrap();
        image.services.get(&ServiceKey::new(address.into(), port, protocol)).copied()
    };
    assert_eq!(service("192.0.2.11", 80, 6), Some(Service::new(1, Forward::Nat, 3_353)));
    assert_eq!(service("192.0.2.12", 80, 6), Some(Service::new(1, Forward::Nat, 3_353)));
    assert_eq!(service("2001:db8:1::11", 80, 6), Some(Service::new(2, Forward::Nat, 3_353)));
    assert_eq!(service("192.0.2.11", 7, 17), Some(Service::new(3, Forward::DsrL2, 112)));
    let mark = |address: &str| ServiceKey::any(address.parse::<IpAddr>().unwrap().into());
    for address in ["192.0.2.11", "192.0.2.12", "2001:db8:1::11", "203.0.113.11"] {
        assert_eq!(image.services.get(&mark(address)), Some(&Service::MARK), "{address}");
    }
    assert_eq!(image.services.values().filter(|service| **service != Service::MARK).count(), 4);
    assert_eq!(image.services.len(), 4 + 5 + 3, "and VIPs and NAT addresses, and the VIPs for ICMP");
}

#[test]
fn only_up_backends_have_slots_by_their_weights() {
    let config = config();
    let mut planner = planner(&config);
    let (b1, b2) = (1, 2);
    let both = image(&mut planner, &config, &["web/b1/v4", "web/b2/v4"]);
    let table = shares(&both.tables[&1]);
    assert!(table[&b2].abs_diff(table[&b1] * 3) <= 3, "{table:?}");
    assert!(both.backends[&b1].is_up() && both.backends[&b2].is_up());

    let one = image(&mut planner, &config, &["web/b2/v4"]);
    assert_eq!(shares(&one.tables[&1]), BTreeMap::from([(b2, maglev::SLOTS)]));
    assert!(!one.backends[&b1].is_up(), "the record stays, for packets within connections");

    let none = image(&mut planner, &config, &[]);
    assert_eq!(shares(&none.tables[&1]), BTreeMap::from([(0, maglev::SLOTS)]));
}

#[test]
fn a_panic_leaves_a_note_for_the_next_daemon() {
    let text = FILE.replacen("port = 80\n", "port = 80\npanic_below = 60\n", 1);
    let config = Config::parse(&text, Path::new("usher.toml")).unwrap();
    let mut planner = planner(&config);
    let mut flags = |up: &[&str]| {
        let image = image(&mut planner, &config, up);
        [1, 2].map(|number| (image.backends[&number].is_up(), image.backends[&number].is_up_by_policy()))
    };
    assert_eq!(flags(&["web/b1/v4", "web/b2/v4"]), [(true, false); 2]);
    assert_eq!(flags(&["web/b2/v4"]), [(true, true), (true, false)], "in a panic");
    assert_eq!(flags(&[]), [(true, true); 2]);
    assert_eq!(flags(&["web/b1/v4", "web/b2/v4"]), [(true, false); 2]);
}

#[test]
fn a_backend_is_lost_when_it_is_down_or_its_drain_has_ended_as_configured() {
    let lost = |options: &str, health, drain_ended| {
        let text = FILE.replacen("port = 80\n", &format!("port = 80\n{options}\n"), 1);
        let config = Config::parse(&text, Path::new("usher.toml")).unwrap();
        let standing = |_: &BackendId, weight| Standing { health: Some(health), weight, drain_ended };
        let situation =
            Situation { standing: &standing, hops: &BTreeMap::new(), mtu: 0, now: Instant::now() };
        let image = planner(&config).image(&config, &situation);
        assert!(features(&config) | image.features() == features(&config), "{options}");
        image.backends[&1].is_lost()
    };
    let (down, ended) = ("on_backend_down = \"reset\"", "on_drain_end = \"reset\"");
    for (options, if_down, if_ended) in [("", false, false), (down, true, true), (ended, false, true)] {
        assert_eq!(lost(options, Health::Down, false), if_down, "{options}");
        assert_eq!(lost(options, Health::Down, true), if_ended, "{options}");
        assert!(!lost(options, Health::Up, false), "{options}");
    }
}

#[test]
fn a_slow_start_is_a_share_of_slots_and_nothing_else() {
    let text = FILE.replacen("port = 80\n", "port = 80\nslow_start = \"10s\"\n", 1);
    let config = Config::parse(&text, Path::new("usher.toml")).unwrap();
    let (mut planner, begin) = (planner(&config), Instant::now());
    let mut at = |second, up: &[&str]| {
        let image = image_at(&mut planner, &config, up, None, begin + Duration::from_secs(second));
        let due = planner.slow_starts().is_due(begin + Duration::from_secs(second + 1));
        (shares(&image.tables[&1]), image.backends, due)
    };
    let both = ["web/b1/v4", "web/b2/v4"];
    let (whole, backends, due) = at(0, &both);
    assert!(!due, "at the start everybody has his whole weight");
    at(1, &both[..1]);
    for (second, share) in [(2, 5), (3, 15), (11, 95)] {
        let (table, still, due) = at(second, &both);
        let expected = maglev::SLOTS * 3 * share / (3 * share + 100);
        assert!(table[&2].abs_diff(expected) <= 1, "{table:?}");
        assert!(due && still == backends);
    }
    assert_eq!(at(12, &both), (whole, backends, false));
}

const SORRY: &str = r#"
[[service]]
name = "sorry"
protocol = "tcp"
port = 81
[[service.backend]]
name = "b1"
address = ["203.0.113.31", "2001:db8:2::31"]
[[service.backend]]
name = "b2"
address = ["203.0.113.32", "2001:db8:2::32"]
backup = true
"#;

#[test]
fn another_services_backends_stand_in_and_keep_their_flows() {
    let text = FILE.replacen("port = 80\n", "port = 80\nall_down = { service = \"sorry\" }\n", 1);
    let config = Config::parse(&format!("{text}{SORRY}"), Path::new("usher.toml")).unwrap();
    let mut planner = planner(&config);
    let number = |planner: &Planner, name: &str| {
        let pool = PoolId { service: "web".into(), family: Family::V4 };
        planner.numbers().backend(&BackendId { pool, backend: name.into() })
    };
    let [own, first, backup] = ["b1", "sorry/b1", "sorry/b2"].map(|name| number(&planner, name));
    let mut used = |up: &[&str]| {
        let image = image(&mut planner, &config, up);
        let mode = planner.modes()[&PoolId { service: "web".into(), family: Family::V4 }].clone();
        let used: Vec<u16> = shares(&image.tables[&1]).into_keys().collect();
        let lent = [first, backup].map(|number| image.backends[&number]);
        assert!(lent.iter().all(|backend| backend.service == 1), "flows of web may go there");
        (mode, used, lent.map(|backend| (backend.is_up(), backend.accepts())))
    };
    let fallback = Mode::Fallback { service: "sorry".into() };
    let all = ["web/b1/v4", "sorry/b1/v4", "sorry/b2/v4"];
    // Known flows go on with who is up.
    let idle = [(true, false), (true, false)];
    assert_eq!(used(&all), (Mode::Ordinary, vec![own], idle));
    assert_eq!(used(&all[1..]), (fallback.clone(), vec![first], [(true, true), (true, false)]));
    assert_eq!(used(&all[2..]), (fallback, vec![backup], [(false, false), (true, true)]));
    assert_eq!(used(&[]), (Mode::Ordinary, vec![0], [(false, false), (false, false)]));
    assert_eq!(used(&all), (Mode::Ordinary, vec![own], idle));
}

#[test]
fn a_service_may_drop_what_it_has_no_backend_for() {
    let text = FILE.replacen("port = 80\n", "port = 80\nall_down = \"drop\"\n", 1);
    let config = Config::parse(&text, Path::new("usher.toml")).unwrap();
    let image = image(&mut planner(&config), &config, &[]);
    let drops = image.services.values().filter(|service| service.flags == Service::DROPS);
    assert_eq!(drops.map(|service| service.number).collect::<Vec<_>>(), [1, 1, 2], "its VIPs");
}

#[test]
fn a_table_is_built_again_only_when_its_pool_changed() {
    let config = config();
    let mut planner = planner(&config);
    let before = image(&mut planner, &config, &["web/b1/v4", "echo/b1/v4"]);
    let after = image(&mut planner, &config, &["web/b1/v4"]);
    assert!(before.tables[&1].is_same(&after.tables[&1]));
    assert!(!before.tables[&3].is_same(&after.tables[&3]));
}

#[test]
fn backends_carry_service_port_and_next_hop() {
    let config = config();
    let image = image(&mut planner(&config), &config, &["web/b1/v4"]);
    let backend = &image.backends[&1];
    assert_eq!((backend.service, u16::from_be_bytes(backend.port)), (1, 8080));
    assert_eq!(backend.hop, Hop::new(3, [2; 6], [4; 6]));
    assert_eq!((backend.mtu, image.settings.unwrap().reply_mtu), (1_400, 1_500));
    assert!(!image.backends[&2].hop.is_known(), "no neighbour has answered yet");
}

#[test]
fn no_dsr_packet_goes_to_a_gateway() {
    let config = config();
    let (web, echo) = (1, 4);
    let on_link = image(&mut planner(&config), &config, &[]);
    assert!(on_link.backends[&web].hop.is_known() && on_link.backends[&echo].hop.is_known());
    let routed = image_through(&mut planner(&config), &config, &[], Some("203.0.113.1"));
    assert!(routed.backends[&web].hop.is_known(), "NAT works through gateways");
    assert!(!routed.backends[&echo].hop.is_known());
}

#[test]
fn settings_speak_the_data_paths_units() {
    let config = config();
    let settings = image(&mut planner(&config), &config, &[]).settings.unwrap();
    assert_eq!((settings.nat_port_first, settings.nat_groups), (1024, 31_744 / 8));
    assert_eq!((nat_port(&config, 0, 0), nat_port(&config, 3_967, 7)), (1024, 32_767));
    assert_eq!(nat_port(&config, 3_968, 1), 1025, "of the second source address");
    assert_eq!(
        settings.flow_table,
        Shape { chunks: 489, items: 504 },
        "16 bytes for each of 1,000,000 flows"
    );
    // 3,600 s in ticks of 2^30 ns.
    assert_eq!(ticks(Duration::from_secs(3_600)), 3_353);
    assert_eq!(ticks(Duration::from_secs(10_000_000)), MAX_IDLE_TICKS);
}

#[test]
fn the_image_tells_the_features_that_it_was_made_for() {
    let more = "[[service]]\nname = \"more\"\nprotocol = \"udp\"\nport = 9\nforward = \"dsr-l2\"\n\
                check = { kind = \"tcp\", port = 80 }\n\
                backend = [{ name = \"b1\", address = \"203.0.113.21\", quic_server_id = \"0a\" }]\n";
    for option in [
        "",
        "hash = \"client\"\n",
        "affinity = \"10m\"\n",
        "rate_limit = { per_source = 1 }\n",
        "quic = { server_id_length = 1 }\n",
    ] {
        let service = more.replace("port = 9\n", &format!("port = 9\n{option}"));
        let service = match option.starts_with("quic") {
            true => service,
            false => service.replace(", quic_server_id = \"0a\"", ""),
        };
        let config = Config::parse(&format!("{FILE}{service}"), Path::new("usher.toml")).unwrap();
        let image = image(&mut planner(&config), &config, &[]);
        assert_eq!(image.features(), features(&config), "{option}");
    }
    assert_eq!(Image::default().features(), Features::NONE);
}
