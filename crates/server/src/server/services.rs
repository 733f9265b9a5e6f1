//! The services beside the stream: runs, health and reflection, and those of whoever builds the server, of which health and
//! reflection tell too.

use std::sync::Arc;

use outflow_engine::Engine;
use outflow_proto::outflow::v1::run_service_server::RunServiceServer;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::ServeError;
use crate::grpc::{RUN_SERVICE, Runs, STREAM_SERVICE, Services};

/// Our own beside these.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";
const REFLECTION_SERVICES: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The services of whoever builds the server.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) routes: Option<Routes>,
    /// What describes them, encoded.
    descriptors: Vec<Vec<u8>>,
    /// The services that those describe.
    described: Vec<String>,
}

impl Beside {
    /// Has health and reflection tell of what this describes.
    pub(super) fn describe(&mut self, encoded: Vec<u8>) {
        self.descriptors.push(encoded);
    }

    /// Looks whether the descriptions are some.
    ///
    /// # Errors
    /// [`ServeError::Descriptors`] where they are not.
    pub(super) fn checked(mut self) -> Result<Self, ServeError> {
        let wrong = |error: &dyn std::fmt::Display| ServeError::Descriptors(error.to_string());
        for encoded in &self.descriptors {
            let set = FileDescriptorSet::decode(&encoded[..]).map_err(|error| wrong(&error))?;
            for file in &set.file {
                let package = file.package();
                let prefix = if package.is_empty() { String::new() } else { format!("{package}.") };
                self.described.extend(file.service.iter().map(|service| format!("{prefix}{}", service.name())));
            }
        }
        self.reflection().build_v1().map_err(|error| wrong(&error))?;
        Ok(self)
    }

    fn reflection(&self) -> tonic_reflection::server::Builder<'_> {
        let own = [
            outflow_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            // Both, so that either lists all that is there.
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let all = own.into_iter().chain(self.descriptors.iter().map(Vec::as_slice));
        let reflection = tonic_reflection::server::Builder::configure().include_reflection_service(false);
        all.fold(reflection, tonic_reflection::server::Builder::register_encoded_file_descriptor_set)
    }

    /// All services of a server over this engine, and who tells their health.
    pub(super) async fn with(self, engine: &Arc<Engine>) -> (Health, Services) {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let v1 = self.reflection().build_v1().expect("checked");
        let v1alpha = self.reflection().build_v1alpha().expect("checked");
        let runs = RunServiceServer::new(Runs::new(engine.clone()));
        let own = Routes::new(health_service).add_service(v1).add_service(v1alpha).add_service(runs);
        let names = [&[RUN_SERVICE, HEALTH_SERVICE][..], &REFLECTION_SERVICES].concat();
        let services = Services::new(engine.clone(), own, &names, self.routes);
        let mut told = self.described;
        told.extend([STREAM_SERVICE.to_owned(), RUN_SERVICE.to_owned()]);
        let health = Health { reporter, told };
        health.set(ServingStatus::Serving).await;
        (health, services)
    }
}

/// Who tells whether the services serve.
pub(super) struct Health {
    reporter: HealthReporter,
    told: Vec<String>,
}

impl Health {
    /// The server ends.
    pub(super) async fn not_serving(&self) {
        self.reporter.set_service_status("", ServingStatus::NotServing).await;
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in &self.told {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
