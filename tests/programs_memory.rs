//! Memory that many clients needed goes back to the system.
#![cfg(target_os = "linux")]

use distcache_testing::bytes::{HAVE, add, have, status};
use distcache_testing::process::{Dir, Program, Signal, has_descriptors, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// How many connections have an unfinished ADD each.
const CROWD: usize = 800;

/// The clients need 26 MB, which are returned whether they leave in the middle or are answered.
fn check_memory(program: &Program, address: &str) {
    let request = add(1, b"an id of the crowd's", &[7; 32_000]);
    let bystander = RawClient::connect(address);
    // The table's huge pages stay, and are not part of this test.
    bystander.ask(&request);
    let before = program.resident();
    for finishes in [false, true] {
        let clients: Vec<_> = (0..CROWD).map(|_| RawClient::connect(address)).collect();
        clients.iter().for_each(|caller| caller.send(&request[..request.len() - 1]));
        let most = until("the crowd's bytes", || {
            let now = program.resident();
            (now > before + CROWD * 30_000).then_some(now)
        });
        if finishes {
            clients.iter().for_each(|caller| caller.send(&request[request.len() - 1..]));
            clients.iter().for_each(|caller| drop(caller.message()));
        } else {
            drop(clients);
        }
        let after = until("the memory to go back", || {
            let now = program.resident();
            (now < before + 5_000_000).then_some(now)
        });
        println!("{before} bytes before, {most} with the crowd, {after} after it");
        assert_eq!(bystander.ask(&have(2, b"nobody's")), status(2, HAVE, 1));
    }
}

#[test]
fn memory_of_many_clients_goes_back_to_the_system() {
    if !has_descriptors(2 * CROWD as u64 + 200) {
        return;
    }
    let dir = Dir::new();
    let server = start::server(DC_SERVER, &dir.address("server"), &[]);
    check_memory(&server, &server.address());
    let proxy = start::connected(DC_CLIENT, &dir.address("proxy"), &dir.address("server"), &[]);
    check_memory(&proxy, &proxy.address());
    assert_eq!(proxy.end(Signal::TERM).code, 0);
    assert_eq!(server.end(Signal::TERM).code, 0);
}
