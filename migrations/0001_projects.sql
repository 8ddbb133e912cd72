-- A project is a namespace of jobs. On a laptop there is one, `default`; in a cluster a project is a Kubernetes namespace.
CREATE TABLE projects (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT projects_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT projects_name_key UNIQUE CONSTRAINT projects_name_check CHECK (length(name) BETWEEN 1 AND 63),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO projects (name) VALUES ('default');
