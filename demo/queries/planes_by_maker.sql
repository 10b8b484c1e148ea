SELECT p.manufacturer,
       count(DISTINCT f.tailnum) AS planes,
       count(*) AS flights,
       sum(f.distance::bigint) AS miles,
       sum(f.air_time) / 60 AS hours,
       round(avg(2013 - p.year), 1) AS age_years,
       round(avg(p.seats), 0) AS seats,
       rank() OVER (ORDER BY avg(f.arr_delay)) AS punctuality_rank
FROM flights f
JOIN planes p USING (tailnum)
GROUP BY p.manufacturer
HAVING count(*) > 100
ORDER BY flights DESC, p.manufacturer
