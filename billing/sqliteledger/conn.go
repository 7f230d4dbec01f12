package sqliteledger

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"

	"github.com/sub2api/caddy-sub2api/internal/private"
)

// conn is one SQLite connection, used without database/sql: the pool's
// bookkeeping costs as much as a small insert. Not safe for concurrent use.
type conn struct{ driver.Conn }

// connect opens a database file, which is made where it doesn't exist. It and those
// beside it get mode 0600.
func connect(ctx context.Context, path string) (conn, error) {
	if err := private.Create(path); err != nil {
		return conn{}, err
	}
	for _, beside := range besides { // new ones get the mode of the database
		private.Tighten(path + beside)
	}
	connector, err := newConnector(path)
	if err != nil {
		return conn{}, err
	}
	c, err := connector.Connect(ctx)
	if err != nil {
		return conn{}, fmt.Errorf("opening %s: %w", path, err)
	}
	return conn{c}, nil
}

// newConnector takes any path, '?' and '%' included.
func newConnector(path string) (driver.Connector, error) {
	path = filepath.ToSlash(path)
	if path[0] != '/' { // C:/data
		path = "/" + path
	}
	query := fmt.Sprintf("_pragma=busy_timeout(%d)", lockWait.Milliseconds())
	return sqlite.NewConnector((&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query}).String())
}

// exec runs a statement and gives its last row, if it has any.
func (c conn) exec(ctx context.Context, statement string, args ...driver.Value) ([]driver.Value, error) {
	named := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
	}
	rows, err := c.Conn.(driver.QueryerContext).QueryContext(ctx, statement, named)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", statement, err)
	}
	defer rows.Close()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); err {
		case nil:
		case io.EOF:
			return row, nil
		default:
			return nil, fmt.Errorf("%s: %w", statement, err)
		}
	}
}

// statement is a prepared statement and its arguments.
type statement struct {
	driver.Stmt
	args []driver.NamedValue
}

func (c conn) prepare(text string) (statement, error) {
	s, err := c.Prepare(text)
	if err != nil {
		return statement{}, fmt.Errorf("%s: %w", text, err)
	}
	args := make([]driver.NamedValue, strings.Count(text, "?"))
	for i := range args {
		args[i].Ordinal = i + 1
	}
	return statement{s, args}, nil
}

// bind sets the arguments.
func (s *statement) bind(args ...driver.Value) {
	for i, arg := range args {
		s.args[i].Value = arg
	}
}

// run executes the statement with the arguments that are set.
func (s *statement) run() error {
	_, err := s.changed()
	return err
}

// changed is run, and gives the number of rows that it changed.
func (s *statement) changed() (int64, error) {
	result, err := s.Stmt.(driver.StmtExecContext).ExecContext(context.Background(), s.args)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
