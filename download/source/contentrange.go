package source

import (
	"fmt"
	"strconv"
	"strings"
)

// parseContentRange reads "bytes first-last/total" (RFC 9110, section 14.4).
// Total is -1 for "*". An unsatisfied range, "bytes */total", has first -1.
func parseContentRange(s string) (first, last, total int64, err error) {
	bad := fmt.Errorf("content-range %.60q", s)
	if len(s) > contentRangeBytes {
		return 0, 0, 0, bad
	}
	unit, rest, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return 0, 0, 0, bad
	}
	span, size, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, 0, 0, bad
	}
	total = -1
	if size != "*" {
		if total, err = digits(size); err != nil {
			return 0, 0, 0, bad
		}
	}
	if span == "*" {
		if total < 0 {
			return 0, 0, 0, bad
		}
		return -1, -1, total, nil
	}
	a, b, ok := strings.Cut(span, "-")
	if !ok {
		return 0, 0, 0, bad
	}
	first, err1 := digits(a)
	last, err2 := digits(b)
	if err1 != nil || err2 != nil || last < first || total >= 0 && last >= total {
		return 0, 0, 0, bad
	}
	return first, last, total, nil
}

// digits reads 1*DIGIT; strconv alone would also take a sign.
func digits(s string) (int64, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseInt(s, 10, 64)
}
