//! A provider is killed, stopped or cut off in the middle of a transfer: another goes on where it was.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Node, end_of, noise, serving, wait_for};
use crate::namespace::{Namespace, sh};

const BYTES: u64 = 256 << 20;

fn signal(node: &Node, signal: Signal) {
    kill_process(Pid::from_raw(node.daemon_pid()).unwrap(), signal).unwrap();
}

fn received(node: &Node) -> u64 {
    node.seen()["received_bytes"].as_u64().unwrap()
}

/// Has a new node fetch a file that both providers have, and strikes when an eighth of it has come.
fn hands_over(what: &str, providers: [&Node; 2], strike: impl FnOnce()) -> Node {
    let content = noise(what.len() as u64, BYTES as usize);
    let cids = providers.map(|provider| provider.share("long", &content));
    assert_eq!(cids[0], cids[1]);
    let node = serving();
    providers.iter().for_each(|provider| node.meet(provider));
    let copy = node.scratch("copy");
    let began = Instant::now();
    let path = format!("/pub/cas/{}", cids[0]);
    let mut get = node.spawn(env!("CARGO_BIN_EXE_gridfs"), &["get", &path, copy.to_str().unwrap()]);
    wait_for("an eighth of it", || received(&node) > BYTES / 8);
    let had = received(&node);
    strike();
    let struck = began.elapsed();
    let status = end_of(&mut get);
    let moved = received(&node);
    println!(
        "{what}: struck after {struck:.1?} and {had} bytes; all {BYTES} there after {:.1?}, {moved} moved",
        began.elapsed()
    );
    assert!(status.success(), "{what}");
    assert!(had < BYTES, "it was over before anything happened");
    assert!(std::fs::read(&copy).unwrap() == content, "{what}");
    assert!(moved < BYTES + BYTES / 4, "{what}: not from the start again");
    node
}

#[test]
#[ignore = "moves 512 MiB: cargo test --workspace --test network -- --ignored --nocapture killed"]
fn another_provider_goes_on_when_one_is_killed_or_stopped() {
    let (one, two) = (serving(), serving());
    hands_over("killed", [&one, &two], || signal(&one, Signal::KILL));
    let three = serving();
    let stopped = Stopped(&three);
    hands_over("stopped", [&three, &two], || signal(&three, Signal::STOP));
    drop(stopped);
}

/// Lets a stopped daemon go on, so that it can be ended.
struct Stopped<'a>(&'a Node);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// A namespace at the other end of a cable.
struct Cable {
    far: Namespace,
    device: String,
    subnet: String,
}

impl Cable {
    /// Laid, if this may be done here.
    fn lay() -> Option<Cable> {
        let (far, number) = (Namespace::new()?, std::process::id());
        // Addresses for tests of networks (RFC 2544).
        let (device, subnet) = (format!("grid{number}a"), format!("198.18.{}", number % 250));
        let name = &far.0;
        sh(&format!(
            "ip link add {device} type veth peer name far netns {name} &&
            ip addr add {subnet}.1/30 dev {device} && ip link set {device} up &&
            ip -n {name} addr add {subnet}.2/30 dev far && ip -n {name} link set far up"
        ))
        .ok();
        Some(Cable { far, device, subnet })
    }

    fn set(&self, state: &str) {
        sh(&format!("ip link set {} {state}", self.device)).ok();
    }
}

#[test]
#[ignore = "three minutes: cargo test --workspace --test network -- --ignored --nocapture cut"]
fn who_is_cut_off_is_replaced_and_found_again() {
    let Some(cable) = Cable::lay() else { return };
    let (far, near) = (Node::new(), serving());
    let listen = format!("/ip4/{}.2/tcp/0", cable.subnet);
    cable.far.serve(&far, "", &[&listen]);
    let only_far = far.share("only", b"beyond the cable");
    let node = hands_over("cut off", [&far, &near], || cable.set("down"));

    let path = format!("/pub/cas/{only_far}");
    let began = Instant::now();
    let (status, error) = node.gridfs(["get", &path]).failed();
    println!("nobody has it: {:.1?}, {error}", began.elapsed());
    assert_eq!(status, 13, "{error}");
    assert!(began.elapsed() < Duration::from_secs(60), "there is a deadline");
    // A connection that nothing comes over is given up, so that it is made anew later.
    let patience = Instant::now() + Duration::from_secs(180);
    while node.seen()["connected"].as_u64() != Some(1) {
        assert!(Instant::now() < patience, "the dead connection is still there");
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("the dead connection was given up after {:.1?}", began.elapsed());
    cable.set("up");
    node.meet(&far);
    wait_for("what was tried in vain to be forgotten", || node.gridfs(["get", &path]).status == 0);
    assert_eq!(node.gridfs(["get", &path]).ok(), "beyond the cable");
}
