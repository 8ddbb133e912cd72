-- Tokens for programs. Only a digest is kept: the token is shown once.
CREATE TABLE tokens (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT tokens_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT tokens_name_key UNIQUE CONSTRAINT tokens_name_check CHECK (length(name) BETWEEN 1 AND 100),
    digest bytea NOT NULL CONSTRAINT tokens_digest_key UNIQUE,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Answers to requests with an Idempotency-Key, kept for a day.
CREATE TABLE idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL CONSTRAINT idempotency_keys_key_check CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- Nothing until the first request has been answered.
    status smallint,
    location text,
    body bytea,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, key)
);
