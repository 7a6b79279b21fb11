//! Nodes that do not listen where others could dial them: behind routers that translate addresses, and on a local network.

use std::time::{Duration, Instant};

use crate::common::{Node, noise, wait_for};
use crate::namespace::{Namespace, sh};

const LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/4747", "/ip4/0.0.0.0/udp/4747/quic-v1"];

/// The internet: a namespace with a node that all reach, which carries packets from one to the other if it is told to.
fn internet() -> Option<Namespace> {
    let internet = Namespace::new()?;
    let nft = internet.sh("nft list ruleset");
    if nft.status != 0 {
        eprintln!("SKIPPED: translating addresses takes nft (Debian's nftables): {}", nft.stderr.trim());
        return None;
    }
    // Who sends to a private address hears nothing.
    internet.sh("ip route add blackhole 10.0.0.0/8").ok();
    Some(internet)
}

/// A private network with one host, and its router; the internet sees `198.18.<number>.2`.
struct Home {
    router: Namespace,
    host: Namespace,
}

impl Home {
    fn new(internet: &Namespace, number: u8) -> Home {
        let (router, host) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let (all, between, inside) = (&internet.0, &router.0, &host.0);
        sh(&format!(
            "set -e
            ip link add home{number} netns {all} type veth peer name wan netns {between}
            ip -n {all} addr add 198.18.{number}.1/24 dev home{number}
            ip -n {all} link set home{number} up
            ip -n {between} addr add 198.18.{number}.2/24 dev wan
            ip -n {between} link set wan up
            ip -n {between} route add default via 198.18.{number}.1
            ip link add lan netns {between} type veth peer name eth0 netns {inside}
            ip -n {between} addr add 10.{number}.0.1/24 dev lan
            ip -n {between} link set lan up
            ip -n {inside} addr add 10.{number}.0.2/24 dev eth0
            ip -n {inside} link set eth0 up
            ip -n {inside} route add default via 10.{number}.0.1"
        ))
        .ok();
        // As routers at home do it: what comes from outside unasked is dropped.
        router.sh("echo 1 > /proc/sys/net/ipv4/ip_forward").ok();
        router
            .sh("nft -f - << END
            table ip nat {
                chain in { type nat hook prerouting priority dstnat; }
                chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }
            }
            table ip filter {
                chain input { type filter hook input priority 0; iifname wan ct state != established drop; }
                chain forward {
                    type filter hook forward priority 0;
                    ct state { established, related } accept;
                    ct status dnat accept;
                    iifname wan drop;
                }
            }
END")
            .ok();
        Home { router, host }
    }
}

fn addresses(node: &Node) -> Vec<String> {
    serde_json::from_value(node.seen()["addresses"].clone()).unwrap()
}

/// Waits until a command succeeds, for two minutes at most.
fn patiently(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{what}: {:.1?}", began.elapsed());
}

#[test]
#[ignore = "half a minute: cargo test --workspace --test network -- --ignored --nocapture nat"]
fn nodes_behind_nat_meet_through_a_relay_and_then_directly() {
    let Some(internet) = internet() else { return };
    let (home, other_home) = (Home::new(&internet, 1), Home::new(&internet, 2));
    let (relay, a) = (Node::new(), Node::new());
    let relays = || internet.serve(&relay, "relay = true", &LISTEN);
    relays();
    let circuit = format!("/ip4/198.18.1.1/tcp/4747/p2p/{}/p2p-circuit", relay.id());
    home.host.serve(&a, "", &[LISTEN[0], LISTEN[1], &circuit]);
    let has_circuit = || addresses(&a).iter().any(|address| address.contains("p2p-circuit"));
    patiently("a place at the relay", has_circuit);
    let ticket = |name: &str, content: &[u8]| a.gridfs(["share", &a.share(name, content)]).ok().trim().to_owned();
    let get = |node: &Node, ticket: &str| {
        let copy = node.scratch("copy");
        let _ = std::fs::remove_file(&copy);
        let got = node.gridfs(["get", ticket, copy.to_str().unwrap()]);
        (got.status == 0).then(|| std::fs::read(copy).unwrap())
    };
    let (small, large) = (noise(1, 20_000), noise(2, 3 << 20));
    let (small_ticket, large_ticket) = (ticket("small", &small), ticket("large", &large));

    // No packet goes from one home to the other.
    let b = Node::new();
    other_home.host.serve(&b, "", &LISTEN);
    let began = Instant::now();
    assert!(get(&b, &small_ticket) == Some(small.clone()), "through the relay");
    println!("20 kB through the relay: {:.1?}", began.elapsed());
    relay.kill_daemon();
    wait_for("the relay to be missed", || b.seen()["connected"].as_u64() == Some(0) && !has_circuit());
    relays();
    patiently("another place at the relay", has_circuit);
    b.stop();

    // Now they do, if both sides send. From a third home: routers still know of what was sent to the other in vain.
    internet.sh("echo 1 > /proc/sys/net/ipv4/ip_forward").ok();
    let third_home = Home::new(&internet, 3);
    let b = Node::new();
    third_home.host.serve(&b, "", &LISTEN);
    assert!(get(&b, &small_ticket) == Some(small.clone()), "through the relay again");
    patiently("a hole, and 3 MiB through it", || get(&b, &large_ticket) == Some(large.clone()));
    relay.kill_daemon();
    let direct = noise(3, 3 << 20);
    let began = Instant::now();
    assert!(get(&b, &ticket("direct", &direct)) == Some(direct), "without the relay");
    println!("3 MiB without the relay: {:.1?}", began.elapsed());
    a.stop();
    b.stop();
}

#[test]
#[ignore = "half a minute: cargo test --workspace --test network -- --ignored --nocapture nat"]
fn a_port_that_a_router_forwards_is_found_out() {
    let Some(internet) = internet() else { return };
    let home = Home::new(&internet, 1);
    home.router.sh("nft add rule ip nat in iifname wan tcp dport 4747 dnat to 10.1.0.2").ok();
    let (other, a) = (Node::new(), Node::new());
    internet.serve(&other, "", &["/ip4/198.18.1.1/tcp/4747"]);
    home.host.serve(&a, "", &LISTEN);
    a.meet(&other);
    let forwarded = format!("/ip4/198.18.1.2/tcp/4747/p2p/{}", a.id());
    patiently("the address that the internet sees", || addresses(&a).contains(&forwarded));
    assert_eq!(addresses(&a)[0], forwarded, "it comes first");
    let stranger = Node::new();
    internet.serve(&stranger, "", &["/ip4/198.18.1.1/tcp/0"]);
    stranger.gridfs(["peer", "add", &forwarded]).ok();
    [a, other, stranger].iter().for_each(Node::stop);
}

/// Two namespaces at the ends of a cable.
fn local_network() -> Option<[Namespace; 2]> {
    let (here, there) = (Namespace::new()?, Namespace::new()?);
    let (Namespace(left), Namespace(right)) = (&here, &there);
    sh(&format!(
        "ip link add eth0 netns {left} type veth peer name eth0 netns {right} &&
        ip -n {left} addr add 192.168.7.1/24 dev eth0 && ip -n {left} link set eth0 up &&
        ip -n {right} addr add 192.168.7.2/24 dev eth0 && ip -n {right} link set eth0 up"
    ))
    .ok();
    Some([here, there])
}

fn is_connected(node: &Node) -> bool {
    node.seen()["connected"].as_u64() == Some(1)
}

#[test]
fn nodes_of_one_local_network_find_each_other() {
    let Some([here, there]) = local_network() else { return };
    let (a, b) = (Node::new(), Node::new());
    [(&here, &a), (&there, &b)].iter().for_each(|(space, node)| space.serve(node, "mdns = true", &LISTEN));
    patiently("the two to find each other", || is_connected(&a) && is_connected(&b));
    let cid = a.share("file", b"on the local network");
    assert_eq!(b.grid(["-p", "pub", "cas", &cid]).ok(), "on the local network");
    [a, b].iter().for_each(Node::stop);
}

/// Each told the other that it listens at 127.0.0.1, too, and dialled itself there before the other could answer.
#[test]
fn nodes_with_the_same_port_meet_again() {
    let Some([here, there]) = local_network() else { return };
    let (a, b) = (Node::new(), Node::new());
    [(&here, &a), (&there, &b)].iter().for_each(|(space, node)| space.serve(node, "", &LISTEN));
    a.meet(&b);
    let known = |node: &Node| node.seen()["peers"][0]["addresses"].to_string();
    patiently("each to say where it listens", || known(&a).contains("quic") && known(&b).contains("quic"));
    assert!(!known(&a).contains("127.0.0.1") && !known(&b).contains("127.0.0.1"));
    a.stop();
    here.serve(&a, "", &LISTEN);
    patiently("a to dial b again", || is_connected(&a) && is_connected(&b));
    [a, b].iter().for_each(Node::stop);
}
