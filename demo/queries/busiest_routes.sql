SELECT o.name AS from_airport,
       coalesce(d.name, f.dest) AS to_airport,
       count(*) AS flights,
       count(DISTINCT f.carrier) AS airlines,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY f.arr_delay) AS median_delay_min,
       percentile_cont(0.9) WITHIN GROUP (ORDER BY f.arr_delay) AS late_delay_min,
       round(avg(f.distance / (f.air_time / 60.0)), 0) AS speed_mph
FROM flights f
JOIN airports o ON o.faa = f.origin
LEFT JOIN airports d ON d.faa = f.dest
GROUP BY o.name, coalesce(d.name, f.dest)
ORDER BY flights DESC, from_airport, to_airport
LIMIT 50
