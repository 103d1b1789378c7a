-- What the holder of a key may ask for.
ALTER TABLE api_keys ADD COLUMN scope TEXT NOT NULL DEFAULT 'use' CHECK (scope IN ('use', 'admin'));
