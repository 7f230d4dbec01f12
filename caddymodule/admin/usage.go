package admin

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// DefaultRecordLimit is how many records an answer has where the query does not
// say.
const DefaultRecordLimit = 100

// filter reads what selects records from the query.
func (c *call) filter() (f billing.RecordFilter, err error) {
	f = billing.RecordFilter{
		User: c.query.Get("user"), KeyID: c.query.Get("key"), Account: c.query.Get("account"), Group: c.query.Get("group"), Model: c.query.Get("model"),
	}
	f.From, f.To, err = c.queryRange("from", "to")
	return f, err
}

// queryRange reads two times of the query; zero = unbounded.
func (c *call) queryRange(fromWord, toWord string) (from, to time.Time, err error) {
	if from, err = c.queryMoment(fromWord); err != nil {
		return from, to, err
	}
	if to, err = c.queryMoment(toWord); err != nil {
		return from, to, err
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return from, to, refuse(http.StatusBadRequest, "%s is not before %s, so nothing lies between; %s itself is left out", fromWord, toWord, toWord)
	}
	return from, to, nil
}

// dimensionColumns are the columns that tell usage rows apart.
var dimensionColumns = map[billing.Dimension]column[billing.UsageRow]{
	billing.ByUser:    {"user", func(r *billing.UsageRow) cell { return nameCell(r.User) }},
	billing.ByKey:     {"key", func(r *billing.UsageRow) cell { return nameCell(r.KeyID) }},
	billing.ByAccount: {"account", func(r *billing.UsageRow) cell { return nameCell(r.Account) }},
	billing.ByGroup:   {"group", func(r *billing.UsageRow) cell { return nameCell(r.Group) }},
	billing.ByModel:   {"model", func(r *billing.UsageRow) cell { return nameCell(r.Model) }},
	billing.ByDay:     {"day", func(r *billing.UsageRow) cell { return nameCell(r.Day) }},
}

var usageColumns = []column[billing.UsageRow]{
	{"requests", func(r *billing.UsageRow) cell { return numberCell(r.Requests) }},
	{"input_tokens", func(r *billing.UsageRow) cell { return numberCell(r.Input) }},
	{"output_tokens", func(r *billing.UsageRow) cell { return numberCell(r.Output) }},
	{"cache_write_5m_tokens", func(r *billing.UsageRow) cell { return numberCell(r.CacheWrite5m) }},
	{"cache_write_1h_tokens", func(r *billing.UsageRow) cell { return numberCell(r.CacheWrite1h) }},
	{"cache_read_tokens", func(r *billing.UsageRow) cell { return numberCell(r.CacheRead) }},
	{"cost_usd", func(r *billing.UsageRow) cell { return usdCell(r.Cost) }},
	{"charged_usd", func(r *billing.UsageRow) cell { return usdCell(r.Charged) }},
}

// showUsage answers GET usage.
func showUsage(c *call) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	var by []billing.Dimension
	var columns []column[billing.UsageRow]
	if text := c.query.Get("by"); text != "" {
		for word := range strings.SplitSeq(text, ",") {
			dimension, err := billing.ParseDimension(word)
			if err != nil {
				return refuse(http.StatusBadRequest, "by: %w", err)
			}
			if slices.Contains(by, dimension) {
				return refuse(http.StatusBadRequest, "by: holds %s twice; keep one", word)
			}
			by = append(by, dimension)
			columns = append(columns, dimensionColumns[dimension])
		}
	}
	out, err := newExport(c, slices.Concat(columns, usageColumns))
	if err != nil {
		return err
	}
	return out.end(c, c.store.ledger.Usage(c.ctx, filter, by, out.row))
}

// recordColumns are all fields of a record, under their names in JSON.
var recordColumns = func() (columns []column[billing.Record]) {
	for _, field := range billing.Fields {
		if field.Name == "user_number" { // the store's own
			continue
		}
		columns = append(columns, column[billing.Record]{field.Name, func(r *billing.Record) cell { return cellOf(field.Of(r)) }})
		if field.Name == "time" {
			columns = append(columns, column[billing.Record]{"settled", func(r *billing.Record) cell { return timeCell(r.Settled) }})
		}
	}
	return columns
}()

// cellOf is the cell of a record's field.
func cellOf(field any) cell {
	switch v := field.(type) {
	case *string:
		return nameCell(*v)
	case *time.Time:
		return timeCell(*v)
	case *int64:
		return numberCell(*v)
	case *int:
		return numberCell(int64(*v))
	case *bool:
		return boolCell(*v)
	case *billing.USD:
		return usdCell(*v)
	case *billing.Rate:
		return rateCell(*v)
	}
	panic(fmt.Sprintf("admin: no cell for %T", field))
}

// showRecords answers GET records.
func showRecords(c *call) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	if filter.SettledFrom, filter.SettledTo, err = c.queryRange("settled_from", "settled_to"); err != nil {
		return err
	}
	filter.Limit = DefaultRecordLimit
	if text := c.query.Get("limit"); text != "" {
		if filter.Limit, err = strconv.Atoi(text); err != nil || filter.Limit < 0 {
			return refuse(http.StatusBadRequest, "limit: %.80q is not a number of records; 0 is all", text)
		}
	}
	out, err := newExport(c, recordColumns)
	if err != nil {
		return err
	}
	if id := c.query.Get("after"); id != "" {
		filter.After, err = c.store.ledger.Record(c.ctx, id)
		if errors.Is(err, billing.ErrUnknownRecord) {
			return refuse(http.StatusBadRequest, "after: there is no record %.80q", id)
		}
		if err != nil {
			return err
		}
	}
	return out.end(c, c.store.ledger.Records(c.ctx, filter, out.row))
}
