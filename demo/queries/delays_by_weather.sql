SELECT a.name AS airline,
       count(*) AS flights,
       round(avg(f.dep_delay), 1) AS delay_min,
       round(avg(f.dep_delay) FILTER (WHERE w.precip > 0), 1) AS delay_in_rain_min,
       round(avg(f.dep_delay) FILTER (WHERE w.wind_speed > 20), 1) AS delay_in_wind_min,
       round(100.0 * count(*) FILTER (WHERE f.dep_time IS NULL) / count(*), 1) AS cancelled_pct
FROM flights f
JOIN airlines a USING (carrier)
JOIN weather w USING (origin, time_hour)
GROUP BY a.name
ORDER BY flights DESC, airline
