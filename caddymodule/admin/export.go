package admin

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// exportBuffer is how much of an export is held before it goes out, in bytes.
const exportBuffer = 32 << 10

// column is one figure or name of a row.
type column[T any] struct {
	name string
	cell func(*T) cell
}

// cell is a value as text.
type cell struct {
	text string
	kind cellKind
}

type cellKind uint8

const (
	asName   cellKind = iota // a client may have chosen the text
	asQuoted                 // it needs quotes in JSON and no escapes
	asBare                   // a number or bool
)

func nameCell(text string) cell       { return cell{text, asName} }
func numberCell(n int64) cell         { return cell{strconv.FormatInt(n, 10), asBare} }
func boolCell(b bool) cell            { return cell{strconv.FormatBool(b), asBare} }
func usdCell(amount billing.USD) cell { return cell{amount.String(), asQuoted} }
func rateCell(rate billing.Rate) cell { return cell{rate.String(), asBare} }
func timeCell(t time.Time) cell       { return cell{t.UTC().Format(time.RFC3339Nano), asQuoted} }

// export writes rows as they come, as an array in JSON or as CSV with a header.
// It holds a buffer, never the rows.
type export[T any] struct {
	columns []column[T]
	client  *begunWriter
	out     *bufio.Writer
	csv     *csv.Writer // nil for JSON
	cells   []string
	rows    int
	err     error // of the client
}

// begunWriter remembers whether something went to the client.
type begunWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *begunWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

func newExport[T any](c *call, columns []column[T]) (*export[T], error) {
	e := &export[T]{columns: columns, client: &begunWriter{ResponseWriter: c.w}, cells: make([]string, len(columns))}
	e.out = bufio.NewWriterSize(e.client, exportBuffer)
	switch format := c.query.Get("format"); format {
	case "", "json":
		c.w.Header().Set("Content-Type", "application/json")
	case "csv":
		c.w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		e.csv = csv.NewWriter(e.out)
		for i, column := range columns {
			e.cells[i] = column.name
		}
		e.err = e.csv.Write(e.cells)
	default:
		return nil, refuse(http.StatusBadRequest, "format: %.80q is unknown; write json or csv", format)
	}
	return e, nil
}

// row writes one row; false if the client has left.
func (e *export[T]) row(row *T) bool {
	if e.csv != nil {
		e.csvRow(row)
	} else {
		e.jsonRow(row)
	}
	e.rows++
	return e.err == nil
}

func (e *export[T]) csvRow(row *T) {
	for i, column := range e.columns {
		cell := column.cell(row)
		e.cells[i] = cell.text
		if cell.kind == asName {
			e.cells[i] = escapeFormula(cell.text)
		}
	}
	e.err = e.csv.Write(e.cells)
}

// escapeFormula keeps a spreadsheet from taking a name for a formula. No name that
// someone means begins like one.
func escapeFormula(name string) string {
	if name != "" && strings.ContainsRune("=+-@\t\r", rune(name[0])) {
		return "'" + name
	}
	return name
}

func (e *export[T]) jsonRow(row *T) {
	// A bufio.Writer keeps its first error: the last write tells.
	start := ",\n{"
	if e.rows == 0 {
		start = "[\n{"
	}
	_, _ = e.out.WriteString(start)
	for i, column := range e.columns {
		if i > 0 {
			_ = e.out.WriteByte(',')
		}
		_, _ = e.out.WriteString(`"` + column.name + `":`)
		cell := column.cell(row)
		switch cell.kind {
		case asBare:
			_, _ = e.out.WriteString(cell.text)
		case asQuoted:
			_, _ = e.out.WriteString(`"` + cell.text + `"`)
		default:
			text, _ := json.Marshal(cell.text) // any string can be
			_, _ = e.out.Write(text)
		}
	}
	e.err = e.out.WriteByte('}')
}

// end completes the answer. err is why the rows ended before their end; if some
// went out, the client sees that the answer was cut.
func (e *export[T]) end(c *call, err error) error {
	if err != nil {
		if !e.client.begun {
			return err
		}
		if c.r.Context().Err() == nil {
			slog.New(&c.store.Logs).Error("an answer of the admin API was cut short", "path", c.r.URL.Path, "rows", e.rows, "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	switch {
	case e.csv != nil:
		e.csv.Flush()
	case e.rows == 0:
		_, _ = e.out.WriteString("[]\n")
	default:
		_, _ = e.out.WriteString("\n]\n")
	}
	_ = e.out.Flush() // whoever left needs no answer
	return nil
}
