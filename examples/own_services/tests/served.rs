//! The program as it is, with real clients: the service and the stream on one port, and both described.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command},
    time::{Duration, Instant},
};

use outflow_client::{Client, Fetch, Payload};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use counter::{CountRequest, counter_client::CounterClient};

#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
mod counter {
    include!(concat!(env!("OUT_DIR"), "/example.rs"));
}

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The program on a port of its own, and a client of it.
async fn start() -> (Program, SocketAddr, Client) {
    let until = Instant::now() + PATIENCE;
    'ports: loop {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_own-services")).arg(address.to_string()).spawn().unwrap();
        let mut program = Program(child);
        loop {
            assert!(Instant::now() < until, "it does not begin to serve");
            if program.0.try_wait().unwrap().is_some() {
                // Somebody else took the port meanwhile.
                continue 'ports;
            }
            match Client::connect(&format!("http://{address}")).await {
                Ok(client) => return (program, address, client),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

#[tokio::test]
async fn the_service_and_the_stream_are_served_on_one_port() {
    let (mut program, address, client) = start().await;
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();

    let mut counter = CounterClient::new(channel.clone());
    let counted = counter.count(CountRequest { up_to: 1000 }).await.unwrap().into_inner();
    assert_eq!(counted.primes, 168);
    let refused = counter.count(CountRequest { up_to: i32::MAX }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let mut stream = client.fetch(Fetch::id(1000)).await.unwrap();
    let mut last = None;
    let mut streamed = 0;
    while let Some(response) = stream.next().await {
        let Payload::Text(prime) = response.unwrap().payload else { panic!("no text") };
        last = Some(prime.to_string());
        streamed += 1;
    }
    assert_eq!((streamed, last.as_deref()), (counted.primes, Some("997")));

    let asked = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"example.Counter") && names.contains(&"protobuf.StreamService"), "{names:?}");

    let asked = HealthCheckRequest { service: "example.Counter".to_owned() };
    let health = HealthClient::new(channel).check(asked).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    kill_process(Pid::from_child(&program.0), Signal::INT).unwrap();
    let until = Instant::now() + PATIENCE;
    let status = loop {
        assert!(Instant::now() < until, "it does not end");
        match program.0.try_wait().unwrap() {
            Some(status) => break status,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(status.success());
}
