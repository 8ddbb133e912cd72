-- Events are listed by when they happened: those of a job that is imported after its end arrive in another order.
CREATE INDEX events_job_id_time_idx ON events (job_id, time DESC, id DESC);
