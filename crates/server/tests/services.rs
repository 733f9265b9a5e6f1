//! The services beside the stream: health and reflection, as stock tools ask for them.

mod support;

use prost::Message as _;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use support::{PATIENCE, TestServer, within};

const SERVICES: [&str; 5] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "outflow.v1.RunService",
    "protobuf.StreamService",
];

async fn channel(server: &TestServer) -> Channel {
    Channel::from_shared(format!("http://{}", server.address())).unwrap().connect().await.unwrap()
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_is_told_for_the_server_and_for_the_stream_service() {
    let server = TestServer::start(|server| server);
    let mut health = HealthClient::new(channel(&server).await);
    for service in ["", "protobuf.StreamService", "outflow.v1.RunService"] {
        let answer = health.check(about(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "`{service}`");
        let mut watch = health.watch(about(service)).await.unwrap().into_inner();
        let first = within(PATIENCE, watch.message()).await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving, "`{service}`");
    }
    let unknown = health.check(about("protobuf.Nobody")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reflection_v1_lists_the_services_and_describes_the_stream() {
    use v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    use v1::{server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest};

    let server = TestServer::start(|server| server);
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("protobuf.StreamService".to_owned()),
        MessageRequest::FileContainingSymbol("protobuf.Nobody".to_owned()),
    ]
    .map(|request| ServerReflectionRequest { message_request: Some(request), ..Default::default() });
    let mut answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();

    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, SERVICES);

    let Some(MessageResponse::FileDescriptorResponse(files)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no file")
    };
    let file = prost_types::FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
    assert_eq!((file.package(), file.service[0].name()), ("protobuf", "StreamService"));
    let method = &file.service[0].method[0];
    assert_eq!((method.name(), method.server_streaming(), method.client_streaming()), ("FetchResponse", true, false));

    let unknown = answers.message().await;
    assert!(
        matches!(&unknown, Err(status) if status.code() == Code::NotFound)
            || matches!(
                unknown.as_ref().unwrap().as_ref().unwrap().message_response,
                Some(MessageResponse::ErrorResponse(_))
            ),
        "{unknown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reflection_v1alpha_lists_the_same_services() {
    use v1alpha::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    use v1alpha::{server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest};

    let server = TestServer::start(|server| server);
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let asked = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, SERVICES);
}
