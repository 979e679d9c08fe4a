#!/bin/sh
# Runs a command with the secrets that its programs take only from variables: for NAME of the list
# below, the file that NAME_FILE names is read into NAME. Ray and boto3 read files themselves.
set -eu
for name in PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING MLFLOW_TRACKING_PASSWORD \
  MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY PGPASSWORD; do
  eval "file=\${${name}_FILE:-}"
  [ -n "$file" ] || continue
  if ! [ -r "$file" ]; then
    echo "error: ${name}_FILE names $file, which this user ($(id -u)) cannot read" >&2
    exit 1
  fi
  value=$(cat "$file")
  if [ -z "$value" ]; then
    echo "error: ${name}_FILE names $file, which is empty" >&2
    exit 1
  fi
  export "$name=$value"
  unset "${name}_FILE"
done
exec "$@"
