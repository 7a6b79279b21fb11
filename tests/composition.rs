//! Calls whose arguments are other calls: on the command line, in the mount, and by the shell functions of `examples/shell`.

mod common;

use std::path::Path;

use common::Node;

const TEXT: &str = "a whale\nno fish\nwhale, whale\n";

#[test]
fn the_path_of_a_call_is_an_argument_of_another() {
    let node = Node::new();
    std::fs::write(node.scratch("moby.txt"), TEXT).unwrap();
    let line = r#"grid wc "$(grid --path grep whale moby.txt)" -l"#;
    assert_eq!(node.sh(line).ok(), "2\n");
    node.mount();
    assert_eq!(node.sh(line).ok(), "2\n");
    // What is in the result of a call, too.
    node.sh("mkdir d && cp moby.txt d && tar cf d.tar d").ok();
    assert_eq!(node.sh(r#"grid wc "$(grid --path untar d.tar)/d/moby.txt" -l"#).ok(), "3\n");
    node.umount();
    assert_eq!(node.sh(r#"grid wc "$(grid --path untar d.tar)/d/moby.txt" -l"#).ok(), "3\n");
}

#[test]
fn a_call_is_encoded_in_the_path_of_another() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    assert_eq!(node.read("local/wc/%2Flocal%2Fgrep%2Fwhale%2Fmoby.txt,-l"), "2\n");
    let inner = "/local/grep/no%20fish/moby.txt";
    let chain = format!("local/sha256/{}", gridfs::path::encode(&format!("/local/md/{}", gridfs::path::encode(inner))));
    let by_hand = node.sh("printf '<p>no fish</p>\\n' | sha256sum | cut -d' ' -f1").ok();
    assert!(node.read(&chain).starts_with(by_hand.trim_end()), "{}", node.read(&chain));
}

#[test]
fn shell_functions_spell_and_chain() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shell/grid.bash");
    let bash = |line: &str| node.sh(&format!("bash -euc '. {}; {line}'", functions.display())).ok();
    for text in ["war.txt", "", ".", "..", "a b/c,d%e", "-l", "@x", "é", "~user_1", "日本*?[a]"] {
        assert_eq!(bash(&format!("grid_encode \"{text}\"")), format!("{}\n", gridfs::path::encode(text)), "{text:?}");
    }
    assert_eq!(bash("cat \"$(grid_chain grep whale moby.txt / wc _ -l)\""), "2\n");
    assert_eq!(bash("cat \"$(grid_chain grep whale moby.txt / grep , _ / wc _ -c)\""), "13\n");
    let nested = "cat \"$HOME_OF_GRID/local/wc/$(grid_encode /local/grep/whale/moby.txt),-l\"";
    assert_eq!(bash(&nested.replace("$HOME_OF_GRID", node.mnt().to_str().unwrap())), "2\n");
}

#[test]
fn an_example_that_nests_calls_by_the_sdk() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guests/matches.wasm");
    node.gridfs(["module", "add", wasm.to_str().unwrap()]).ok();
    assert_eq!(node.read("local/matches/whale/moby.txt"), "2\n");
    assert_eq!(node.read("local/matches/fish/moby.txt"), "1\n");
}
