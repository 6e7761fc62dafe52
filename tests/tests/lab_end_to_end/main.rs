//! usher end to end, in the lab: real curl, dig, wrk, iperf3, nginx and unbound, native XDP.
//!
//! Every check is a test of its own, named after what it shows, under the way of forwarding that it is
//! made in: `nat::backends::killed_backend_fails_no_request_once_detected`. Checks of one way share a lab,
//! one after the other; each leaves the lab well, and one that failed leaves it to nobody.
//!
//! `cargo test -p usher-tests --test lab_end_to_end -- nat::dns` makes some of them. Without root they are
//! ignored; with `USHER_NO_SKIP=1` they fail.

mod backends;
mod chaos;
mod check_path;
mod configuration;
mod crash;
mod defence;
mod dns;
mod edits;
mod explain;
mod floods;
mod lifecycle;
mod nat_ports;
mod nodes;
mod observe;
mod own_traffic;
mod passive;
mod path_mtu;
mod policies;
mod public;
mod quic;
mod reload;
mod secondary;
mod secret;
mod servers;
mod shared_zone;
mod support;
mod traffic;
mod udp;

use std::env;

use libtest_mimic::{Arguments, Conclusion, Trial};
use support::{Body, in_lab};
use usher_lab::{DnsServer, Forward, Options, can_raise};

/// Functions under their names.
macro_rules! checks {
    ($($module:ident::$name:ident),+ $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as Body)),+]
    };
}

/// What must hold however packets are forwarded.
const BOTH_WAYS: &[(&str, Body)] = &checks![
    traffic::curl_by_name_over_ipv4_is_spread_over_backends_and_nodes,
    traffic::curl_by_name_over_ipv6_is_spread_over_backends_and_nodes,
    traffic::download_of_1_gib_over_ipv4_arrives_intact,
    traffic::download_of_1_gib_over_ipv6_arrives_intact,
    traffic::upload_of_256_mib_over_ipv4_arrives_intact,
    traffic::upload_of_256_mib_over_ipv6_arrives_intact,
    path_mtu::e53_download_over_ipv4_goes_on_when_the_path_narrows,
    path_mtu::e53_download_over_ipv6_goes_on_when_the_path_narrows,
    path_mtu::upload_over_ipv4_goes_on_when_the_path_narrows,
    path_mtu::upload_over_ipv6_goes_on_when_the_path_narrows,
    path_mtu::e53_datagrams_over_ipv4_go_on_when_the_path_narrows,
    path_mtu::e53_datagrams_over_ipv6_go_on_when_the_path_narrows,
    traffic::wrk_with_64_connections_sees_no_error,
    traffic::wrk_with_a_new_connection_per_request_sees_no_error,
    udp::f63_every_datagram_is_answered_and_counted_once,
    udp::d43_flow_with_a_fixed_source_port_leaves_a_dead_backend_and_stays_away,
    explain::b22_both_nodes_name_the_backend_that_100_flows_then_reach,
    explain::asking_changes_nothing,
    observe::flows_of_one_client_are_found_with_their_backend,
    observe::metrics_tell_what_status_tells,
    observe::f63_packets_are_counted_by_service_and_reason,
    observe::f64_capture_sees_curls_packets_before_and_after,
    observe::f64_capture_ends_however_it_ends,
    defence::f62_denied_client_is_cut_off_at_once_and_served_again_afterwards,
    backends::killed_backend_fails_no_request_once_detected_and_comes_back,
    backends::connections_to_other_backends_outlive_a_dead_one,
    backends::d44_backend_whose_health_flaps_loses_no_connection,
    reload::d48_reloads_cut_no_flow,
    lifecycle::d46_restarts_crashes_and_upgrades_lose_nothing,
    lifecycle::d46_time_without_a_daemon_loses_nothing,
    servers::d42_drained_backend_keeps_its_flows_and_gets_no_new_ones,
    nodes::f61_node_that_is_cut_off_leaves_dns_and_comes_back,
    nodes::f61_node_that_falls_silent_leaves_dns_and_comes_back,
    nodes::d52_nodes_that_disagree_on_health_break_no_flow,
];

/// Where backends answer clients themselves, and no node remembers what others need.
const DIRECT: &[(&str, Body)] = &checks![
    check_path::f57_backend_without_the_services_address_is_down,
    check_path::f57_datagrams_find_it_too,
    nodes::d52_connections_go_on_through_the_node_that_takes_the_address_of_one_that_disagreed,
];

/// Where no gateway may stand between nodes and backends.
const ON_THE_LINK: &[(&str, Body)] = &checks![reload::backend_that_is_on_the_link_again_is_accepted_at_once];

/// Through tunnels.
const TUNNEL: &[(&str, Body)] = &checks![check_path::f57_backend_that_unpacks_nothing_is_down];

/// After all others of a way: it takes long to know what went wrong.
const CHAOS: &[(&str, Body)] = &checks![chaos::half_a_minute_of_anything_loses_only_what_it_may];

/// With a QUIC service.
const QUIC: &[(&str, Body)] = &checks![
    quic::client_that_moves_keeps_its_backend,
    quic::id_that_names_no_backend_goes_where_the_flow_goes,
];

/// With tables that a flood fills.
const SMALL: &[(&str, Body)] =
    &checks![floods::c38_1000_connections_and_their_entries_outlive_floods_of_a_million_packets];

/// With hardly any NAT ports.
const FEW_PORTS: &[(&str, Body)] =
    &checks![nat_ports::c36_connections_beyond_the_ports_are_reset_and_status_says_so];

/// What does not depend on the way of forwarding, and what only NAT has.
const NAT: &[(&str, Body)] = &checks![
    path_mtu::e54_download_over_ipv4_arrives_by_a_node_whose_own_way_to_clients_is_narrow,
    path_mtu::e54_download_over_ipv6_arrives_by_a_node_whose_own_way_to_clients_is_narrow,
    dns::both_nodes_are_answered_in_changing_order,
    dns::tcp_answers_as_udp_does,
    dns::zone_names_its_servers_with_addresses_and_its_authority,
    dns::what_does_not_exist_is_denied_with_the_soa,
    dns::foreign_name_is_refused,
    dns::ttl_is_short_while_a_node_seems_to_leave,
    backends::all_backends_down_is_stated_and_answered_with_every_address,
    defence::f62_a_million_rules_are_added_by_one_command,
    defence::f62_source_that_opens_too_many_connections_is_refused_new_ones_only,
    reload::d41_d45_backend_leaves_a_service_and_returns_by_reload,
    reload::service_is_added_and_removed_by_reload,
    reload::what_cannot_be_reloaded_is_refused_with_the_reason,
    reload::signal_reloads_and_the_log_says_what,
    reload::changed_file_is_in_force_without_a_command,
    passive::silent_backend_is_named_and_taken_down_although_its_checks_pass,
    policies::backup_serves_only_while_nobody_else_does,
    policies::in_a_panic_all_are_used,
    policies::node_with_too_few_backends_leaves_dns_before_a_panic,
    policies::name_of_two_services_needs_all_or_any_of_them,
    policies::another_service_stands_in_or_packets_are_dropped,
    policies::returning_backend_gets_its_share_step_by_step,
    policies::agents_words_count_at_once,
    servers::backend_in_maintenance_or_said_to_be_down_gets_nothing,
    servers::d42_drain_ends_at_its_deadline,
    servers::what_was_set_outlives_the_daemon,
    edits::backends_come_and_go_by_command_and_outlive_the_daemon,
    edits::services_come_and_go_by_command,
    edits::what_does_not_fit_the_file_is_left_out,
    nodes::stopped_node_withdraws_serves_on_and_leaves_nothing_attached,
    nodes::service_manager_is_told_when_the_node_serves_lives_and_stops,
    nodes::dns_query_during_a_restart_is_answered,
    nodes::f61_node_that_falls_silent_leaves_dns_though_services_take_turns,
    nodes::d46_drained_node_leaves_dns_and_serves_on,
    nodes::drained_node_is_safe_to_stop_when_no_flow_begins,
    nodes::running_daemon_keeps_four_capabilities,
    lifecycle::d47_restart_follows_the_file,
    lifecycle::node_without_a_daemon_serves_and_leaves_dns_after_the_grace,
    lifecycle::interface_that_is_made_anew_gets_its_program_again,
    lifecycle::detach_removes_what_a_daemon_has_left,
    lifecycle::start_that_fails_leaves_nothing,
    lifecycle::start_that_fails_leaves_the_data_path_alone,
    lifecycle::what_is_pinned_and_not_whole_goes_on_and_is_not_touched,
    lifecycle::without_a_bpf_file_system_the_data_path_ends_with_the_daemon,
    nodes::second_usher_on_the_same_socket_is_refused,
    secret::another_secret_takes_its_place_while_nodes_hear_each_other,
    own_traffic::ping_reaches_the_node,
    own_traffic::server_on_the_node_works_inside_the_nat_ports_too,
    own_traffic::connections_from_the_node_work,
];

/// Behind a router that translates public addresses.
const PUBLIC: &[(&str, Body)] = &checks![
    public::clients_are_given_public_addresses_and_reach_each_node_there,
    public::nodes_that_cannot_reach_public_addresses_check_each_other_elsewhere,
    nodes::f61_node_that_is_cut_off_leaves_dns_and_comes_back,
    nodes::f61_node_that_falls_silent_leaves_dns_and_comes_back,
];

/// In a zone that BIND holds.
const BIND: &[(&str, Body)] = &checks![
    shared_zone::nodes_publish_themselves_beside_what_is_the_operators,
    shared_zone::node_that_dies_leaves_the_primary_and_every_answer,
    shared_zone::node_that_is_killed_and_cut_off_comes_back_with_its_next_daemon,
    shared_zone::drained_node_leaves_the_primary_at_once_and_serves_on,
    shared_zone::drain_ends_when_nobody_is_led_to_the_node_any_more,
    shared_zone::restarted_daemon_takes_its_lease_over,
    shared_zone::node_that_stops_for_good_leaves_nothing_in_the_zone,
    shared_zone::primary_that_stands_still_takes_nobody_away,
    shared_zone::node_alone_takes_nobody_away,
    shared_zone::node_cut_off_from_its_peers_alone_is_taken_away_and_takes_nobody_away,
    shared_zone::node_that_is_drained_and_has_lost_the_primary_is_taken_away_after_its_lease,
    shared_zone::primary_whose_clock_is_an_hour_off_takes_nobody_away,
    shared_zone::records_of_the_operator_at_a_name_are_named_and_left_alone,
    shared_zone::name_that_is_full_is_told_and_keeps_nothing_from_the_others,
    shared_zone::primary_that_takes_tcp_only_is_written_and_named,
    shared_zone::wrong_key_is_named_and_mended_without_a_restart,
    shared_zone::plan_and_simulation_tell_what_comes,
];

/// In a zone that another server holds.
const OTHER_PRIMARY: &[(&str, Body)] = &checks![
    shared_zone::nodes_publish_themselves_beside_what_is_the_operators,
    shared_zone::node_that_is_cut_off_leaves_the_primary_and_every_answer,
    shared_zone::drained_node_leaves_the_primary_at_once_and_serves_on,
];

/// Where that has a secondary.
const SECONDARY: &[(&str, Body)] = &checks![secondary::secondary_that_lags_is_seen];

/// On nodes that do not run usher yet.
const BARE: &[(&str, Body)] = &checks![
    configuration::bad_files_are_refused_with_place_and_remedy,
    configuration::file_that_does_not_fit_the_host_is_refused,
    configuration::files_that_are_named_and_missing_are_told,
    configuration::dsr_service_on_the_address_that_checks_come_from_is_refused,
    configuration::nat_ports_that_the_kernel_hands_out_are_refused,
];

fn main() {
    if env::args().nth(1).as_deref() == Some(crash::VICTIM) {
        return crash::raise_and_wait();
    }
    let mut arguments = Arguments::from_args();
    // The lab belongs to one thread.
    arguments.test_threads = Some(1);
    run(&arguments).exit()
}

fn run(arguments: &Arguments) -> Conclusion {
    let lab = |way: &str, checks: &[(&str, Body)], options: &Options| {
        let trial = |&(name, body): &(&str, Body)| {
            let options = options.clone();
            Trial::test(format!("{way}::{name}"), move || in_lab(&options, body))
        };
        checks.iter().map(trial).collect::<Vec<_>>()
    };
    let nat = Options { quic: true, ..Options::default() };
    let dsr_l2 = Options { forward: Forward::DsrL2, quic: true, ..Options::default() };
    let dsr_ipip = Options { forward: Forward::DsrIpip, ..Options::default() };
    let dsr_gue = Options { forward: Forward::DsrGue, ..Options::default() };
    let small =
        |options: &Options| Options { flows: Some(floods::SMALL_TABLE), quic: false, ..options.clone() };
    let few_ports = Options { nat_ports: Some(nat_ports::FEW.to_owned()), quic: false, ..nat.clone() };
    let public = Options { public: true, ..Options::default() };
    let bare = Options { run_usher: false, ..Options::default() };
    let trials = [
        lab("nat", BOTH_WAYS, &nat),
        lab("nat", NAT, &nat),
        lab("nat", CHAOS, &nat),
        lab("nat", QUIC, &nat),
        lab("nat", SMALL, &small(&nat)),
        lab("nat", FEW_PORTS, &few_ports),
        lab("dsr_l2", BOTH_WAYS, &dsr_l2),
        lab("dsr_l2", DIRECT, &dsr_l2),
        lab("dsr_l2", ON_THE_LINK, &dsr_l2),
        lab("dsr_l2", QUIC, &dsr_l2),
        lab("dsr_l2", SMALL, &small(&dsr_l2)),
        lab("dsr_ipip", BOTH_WAYS, &dsr_ipip),
        lab("dsr_ipip", DIRECT, &dsr_ipip),
        lab("dsr_ipip", TUNNEL, &dsr_ipip),
        lab("dsr_ipip", SMALL, &small(&dsr_ipip)),
        lab("dsr_gue", BOTH_WAYS, &dsr_gue),
        lab("dsr_gue", DIRECT, &dsr_gue),
        lab("dsr_gue", TUNNEL, &dsr_gue),
        lab("dsr_gue", SMALL, &small(&dsr_gue)),
        lab("bind", BIND, &shared_zone::options(DnsServer::Bind)),
        lab("bind", SECONDARY, &shared_zone::options(DnsServer::Bind)),
        lab("knot", OTHER_PRIMARY, &shared_zone::options(DnsServer::Knot)),
        lab("knot", SECONDARY, &shared_zone::options(DnsServer::Knot)),
        lab("powerdns", OTHER_PRIMARY, &shared_zone::options(DnsServer::Powerdns)),
        lab("translated", PUBLIC, &public),
        lab("bare", BARE, &bare),
        crash::trials(),
    ];
    let ignored = !arguments.list && !can_raise();
    let trials = trials.into_iter().flatten().map(|trial| trial.with_ignored_flag(ignored)).collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    support::remove_lab();
    conclusion
}
