-- Batches: many requests in a file, answered in another.
CREATE TABLE batches (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    input_file TEXT NOT NULL,
    -- JSON, as the client gave it.
    metadata TEXT,
    -- Seconds that the files of results are kept.
    output_ttl INTEGER,
    status TEXT NOT NULL,
    -- What it is when its files are written.
    outcome TEXT NOT NULL DEFAULT 'completed',
    -- What was wrong with the input file, as JSON.
    errors TEXT,
    -- The models that its lines name, as JSON.
    models TEXT NOT NULL DEFAULT '[]',
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    cancelling_at INTEGER,
    ended_at INTEGER,
    num_total INTEGER NOT NULL DEFAULT 0,
    num_completed INTEGER NOT NULL DEFAULT 0,
    num_failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    output_file TEXT,
    error_file TEXT,
    -- Who checks its input or writes its files, and until when, in milliseconds.
    lease_holder TEXT,
    lease_until INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_owner ON batches (owner, created_at, id);
CREATE INDEX batches_status ON batches (status, created_at);

-- The lines of batches that have not ended. What a line asks is in the input file.
CREATE TABLE batch_lines (
    batch TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    -- As an editor numbers it.
    position INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    model TEXT NOT NULL,
    first_byte INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL,
    -- 0: waiting. 1: leased. 2: answered. 3: never to be answered.
    state INTEGER NOT NULL DEFAULT 0,
    -- Not before this, in milliseconds.
    ready_at INTEGER NOT NULL DEFAULT 0,
    -- How often its answer was lost.
    num_tries INTEGER NOT NULL DEFAULT 0,
    lease_holder TEXT,
    lease_until INTEGER NOT NULL DEFAULT 0,
    is_error INTEGER NOT NULL DEFAULT 0,
    -- The line of the results.
    result TEXT,
    PRIMARY KEY (batch, position)
) STRICT;
CREATE INDEX batch_lines_waiting ON batch_lines (batch, model, position) WHERE state = 0;
CREATE INDEX batch_lines_leased ON batch_lines (lease_until) WHERE state = 1;
