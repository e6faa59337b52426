//! Attacks on a node in a process of its own: raw sockets attack it from 127.0.0.2, while a peer on 127.0.0.1 sends it
//! requests.
//!
//! The node refuses and counts each attack, and logs it once. Its memory stays within the bound that [`bounds`] computes
//! from the limits. The peer gets every reply in time, and a new peer can connect. When the attacker has gone, the node uses no
//! more memory and time than before. [`attack_test`] checks the last four.

#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/counting.rs"]
#[allow(dead_code, reason = "each test file uses a part of this module")]
mod counting;

mod attack_test;
mod bounds;
mod caller;
mod channels;
mod crowds;
mod datagrams;
mod files;
mod handshakes;
mod impostors;
mod member;
mod members;
mod middle;
mod payloads;
mod processors;
mod protocol;
mod queues;
mod records;
mod routes;
mod tls;
mod victim;

use std::process::ExitCode;

use common::harness::{self, tests};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fn main() -> ExitCode {
    if !cfg!(target_os = "linux") {
        println!("skipped: the tests read memory from /proc, and need all addresses of 127.0.0.0/8");
        return ExitCode::SUCCESS;
    }
    harness::run(
        victim::run,
        tests![
            channels::deliveries_unanswered_leave_no_traces,
            channels::large_message_for_many_subscribers_takes_turns,
            channels::large_messages_for_sleeping_subscribers_are_bounded,
            channels::silent_subscribers_leave_channel_to_others,
            channels::small_messages_for_many_subscribers_end_with_member,
            channels::upstreams_reach_many_relays_in_parts,
            crowds::hello_oversized_is_refused_after_4_kib,
            crowds::slow_handshakes_are_closed_after_five_seconds,
            crowds::half_open_connections_do_not_block_new_peers,
            crowds::half_open_flood_from_many_addresses_spares_members,
            crowds::members_that_vanish_leave_room_for_newcomers,
            datagrams::announcement_forged_is_counted_and_not_dialled,
            datagrams::announcement_replayed_causes_ten_dials_a_second,
            datagrams::announcements_of_member_cause_ten_dials_a_second,
            datagrams::announcement_outside_dial_allow_is_not_dialled,
            datagrams::datagram_reply_is_no_longer_than_its_probe,
            files::file_path_outside_dest_is_refused,
            files::file_sender_over_window_or_size_is_refused,
            handshakes::handshake_replayed_is_refused,
            handshakes::hello_or_proof_reflected_is_refused,
            handshakes::suite_downgrade_in_the_middle_is_refused,
            handshakes::handshake_with_flipped_bit_fails,
            impostors::impostor_of_connected_node_is_refused,
            impostors::impostor_of_absent_node_leaves_and_it_returns,
            impostors::impostor_of_resting_node_is_refused,
            impostors::impostor_that_rests_and_leaves_frees_node_id,
            impostors::location_of_absent_node_ends_no_session,
            impostors::stated_location_is_dialled_all_the_same,
            members::control_flood_leaves_others_their_share,
            members::empty_records_leave_others_their_share,
            members::decoder_bomb_is_refused_and_session_continues,
            members::locations_of_members_cause_ten_dials_a_second,
            members::idle_proposals_unread_use_no_memory,
            members::lookups_are_limited_and_dropped_with_their_peer,
            members::monitors_are_limited_and_dropped_with_their_peer,
            members::replies_to_unknown_nodes_cause_few_dials,
            members::rci_calls_over_quota_are_refused,
            members::messages_for_sleeping_actors_wait_at_their_sender,
            members::fragments_and_tags_over_limits_end_session,
            payloads::bombs_in_replies_fail_their_requests,
            payloads::bombs_as_exit_values_cannot_be_read,
            payloads::bombs_as_signals_reach_no_actor,
            payloads::bombs_behind_full_mailbox_are_refused,
            queues::answers_untaken_end_session,
            queues::exit_values_untaken_stay_within_reserve,
            queues::frames_unacknowledged_are_kept_within_bound,
            queues::monitors_of_ended_actor_leave_others_their_share,
            queues::pauses_beside_long_queue_leave_others_their_share,
            queues::small_messages_for_sleepers_wait_at_sender,
            protocol::announce_relays_are_served_once_a_second,
            protocol::lookup_with_used_number_replaces_earlier,
            protocol::member_that_broke_protocol_receives_close,
            protocol::monitor_of_unknown_actor_names_target,
            protocol::peer_that_rejects_node_ends_session,
            records::record_tampered_with_costs_only_its_connection,
            routes::routes_of_one_member_leave_others_theirs,
            routes::flood_of_routes_leaves_others_their_share,
            routes::dials_of_one_member_leave_others_theirs,
            routes::hanging_dials_leave_descriptors_for_newcomers,
            routes::victim_without_descriptors_rests_and_recovers,
            routes::silent_members_cause_ten_dials_a_second,
            routes::closing_members_cause_ten_dials_a_second,
            routes::short_clients_leave_no_traces,
            tls::tls_middle_with_other_certificate_is_refused,
            tls::tls_unfinished_handshakes_stay_within_their_buffers,
        ],
    )
}
