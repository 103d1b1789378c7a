-- Batches: many requests in a file, answered in another.
CREATE TABLE batches (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    input_file TEXT NOT NULL,
    -- JSON, as the client gave it.
    metadata TEXT,
    -- Seconds that the files of results are kept.
    output_ttl BIGINT,
    status TEXT NOT NULL,
    -- What it is when its files are written.
    outcome TEXT NOT NULL DEFAULT 'completed',
    -- What was wrong with the input file, as JSON.
    errors TEXT,
    -- The models that its lines name, as JSON.
    models TEXT NOT NULL DEFAULT '[]',
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    in_progress_at BIGINT,
    finalizing_at BIGINT,
    cancelling_at BIGINT,
    ended_at BIGINT,
    num_total BIGINT NOT NULL DEFAULT 0,
    num_completed BIGINT NOT NULL DEFAULT 0,
    num_failed BIGINT NOT NULL DEFAULT 0,
    input_tokens BIGINT NOT NULL DEFAULT 0,
    cached_tokens BIGINT NOT NULL DEFAULT 0,
    output_tokens BIGINT NOT NULL DEFAULT 0,
    reasoning_tokens BIGINT NOT NULL DEFAULT 0,
    output_file TEXT,
    error_file TEXT,
    -- Who checks its input or writes its files, and until when, in milliseconds.
    lease_holder TEXT,
    lease_until BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX batches_owner ON batches (owner, created_at, id);
CREATE INDEX batches_status ON batches (status, created_at);

-- The lines of batches that have not ended. What a line asks is in the input file.
CREATE TABLE batch_lines (
    batch TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    -- As an editor numbers it.
    position BIGINT NOT NULL,
    custom_id TEXT NOT NULL,
    model TEXT NOT NULL,
    first_byte BIGINT NOT NULL,
    num_bytes BIGINT NOT NULL,
    -- 0: waiting. 1: leased. 2: answered. 3: never to be answered.
    state BIGINT NOT NULL DEFAULT 0,
    -- Not before this, in milliseconds.
    ready_at BIGINT NOT NULL DEFAULT 0,
    -- How often its answer was lost.
    num_tries BIGINT NOT NULL DEFAULT 0,
    lease_holder TEXT,
    lease_until BIGINT NOT NULL DEFAULT 0,
    is_error BIGINT NOT NULL DEFAULT 0,
    -- The line of the results.
    result TEXT,
    PRIMARY KEY (batch, position)
);
CREATE INDEX batch_lines_waiting ON batch_lines (batch, model, position) WHERE state = 0;
CREATE INDEX batch_lines_leased ON batch_lines (lease_until) WHERE state = 1;
