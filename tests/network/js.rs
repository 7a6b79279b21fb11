//! An independent implementation of libp2p, js-libp2p, as a client: what PROTOCOL.md says is enough to take part.

use std::path::Path;
use std::process::Command;

use gridfs::parms::{Parms, Value};
use gridfs::promise::Promise;
use gridfs_store::Cid;

use crate::common::{Node, Ran, wait_for};

const LISTEN: [&str; 4] = ["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/tcp/0/ws"];

/// Node has had it for long, and has it without being told from version 22 on.
const WEB_SOCKET: &str = "--experimental-websocket";

/// Where the client lies, if it can run here.
fn client() -> Option<std::path::PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let node = Command::new("node").arg("--version").output();
    if !node.is_ok_and(|node| node.status.success()) {
        eprintln!("SKIPPED: node is not installed; it is in Debian's nodejs");
        return None;
    }
    if !directory.join("node_modules/libp2p").exists() {
        eprintln!("SKIPPED: the client's packages are missing; npm ci --prefix tests/js fetches them");
        return None;
    }
    Some(directory.join("client.mjs"))
}

#[test]
fn a_js_libp2p_client_finds_peers_and_providers_and_makes_a_call() {
    let Some(client) = client() else { return };
    let (a, b) = (Node::new(), Node::new());
    [&a, &b].iter().for_each(|node| drop(node.gridfs(["serve"].iter().chain(&LISTEN)).ok()));
    a.meet(&b);
    let words: Cid = a.share("words.txt", b"one two three\n").parse().unwrap();
    let counted = a.grid(["-p", "pub", "wc", &words.to_string()]).ok();
    wait_for("the records to spread", || b.seen()["provider_records"].as_u64().unwrap() >= 3);
    let wc = a.cid("wc").parse().unwrap();
    let promise = Promise::public().cid();
    let parms = Parms { promise, module: wc, arguments: vec![Value::Object(words)] };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let id = |node: &Node| node.seen()["node"].as_str().unwrap().to_owned();
    for kind in ["tcp", "ws"] {
        let addresses = b.seen()["addresses"].clone();
        let is_kind = |address: &&str| address.contains("/ws/") == (kind == "ws");
        let address = addresses.as_array().unwrap().iter().filter_map(|a| a.as_str()).find(is_kind).unwrap();
        let task = serde_json::json!({
            "address": address,
            "peer": id(&a),
            "key": hex(&words.hash.0),
            "parms": hex(&parms.to_bytes()),
            "promise": hex(&promise.to_bytes()),
        });
        let ran = Ran::from(Command::new("node").arg(WEB_SOCKET).arg(&client).arg(task.to_string()).output().unwrap());
        let said: serde_json::Value = serde_json::from_str(&ran.ok()).unwrap();
        assert_eq!(said["agent"], format!("gridfs/{}", env!("CARGO_PKG_VERSION")), "{kind}: {said}");
        assert!(said["ping_ms"].is_number(), "{kind}: {said}");
        assert_eq!(said["found"], id(&a), "{kind}: {said}");
        assert_eq!(said["providers"], serde_json::json!([id(&a)]), "{kind}: {said}");
        assert_eq!(said["result"], counted, "{kind}: {said}");
        assert_eq!(said["claim_is_signed_by"], id(&a), "{kind}: {said}");
    }
}
