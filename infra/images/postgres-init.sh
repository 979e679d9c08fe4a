#!/bin/sh
# Runs once, in an empty PostgreSQL: a role and a database for each server, each with its own password.
# Passwords go through psql's standard input, never through arguments.
set -eu
make_database() {
  name=$1
  password=$(cat "$2")
  case $password in
    '' | *[!A-Za-z0-9_-]*)
      echo "error: $2 must hold a password of letters, digits, _ and -" >&2
      exit 1
      ;;
  esac
  psql -v ON_ERROR_STOP=1 --quiet --username postgres <<SQL
create role $name login password '$password';
create database $name owner $name;
revoke connect on database $name from public;
SQL
}
make_database prefect "$PREFECT_PASSWORD_FILE"
make_database mlflow "$MLFLOW_PASSWORD_FILE"
# Prefect's schema needs it.
psql -v ON_ERROR_STOP=1 --quiet --username postgres --dbname prefect -c 'create extension if not exists pg_trgm'
